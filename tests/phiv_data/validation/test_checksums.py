"""The table of images.sha256 on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_a_disk_that_takes_no_more_is_an_error_not_a_shorter_table(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from phiv_data.validation.inputs.checksums import write_table\n"
        "from phiv_schemas import EnvironmentProblem\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "try:\n"
        "    write_table(((f'{i}.jpg', '0' * 64) for i in range(100)), Path(sys.argv[1]))\n"
        "except EnvironmentProblem as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "the file grows too large" in done.stdout
