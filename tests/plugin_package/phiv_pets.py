"""Images of cats and dogs to questions."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from phiv_data.convert import Converter, Draft, Item, Turn, load_image


@dataclass(frozen=True)
class Pets(Converter):
    """Images of cats and dogs to questions."""

    source: Path
    """Folder with {train,val}/{cat,dog}/*.jpg."""
    question: str = "Cat or dog?"
    """What is asked of every image."""
    name = "pets"

    def inputs(self) -> Iterator[Item]:
        for path in sorted(self.source.glob("*/*/*.jpg")):
            yield Item(split=path.parts[-3], key=path.relative_to(self.source).as_posix(), content=path)

    def draft(self, item: Item) -> Draft:
        image = load_image(item.path, item.key)
        return Draft((Turn(images=(item.key,), user=self.question, assistant=item.path.parent.name),), (image,))
