"""Images and clips that are broken in the ways of the wild: each has its codes, and none ends the validation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Codes -> names of files of broken_media/images. Those of the first entry decode, and nothing about them is odd.
EXPECTED: dict[str, str] = {
    "": """
        AFL__not_kitty_icc.png exiftool__ExifTool.jpg exiv2__exiv2-bug1074.png
        fuzzing-corpus__random-grayscale-nayuki-bs64.gif image__ycbcr_lzw_broken.tif
        metadata-extractor-images__51a4d21670dc8dfa8ffc9e54afd62f5f.png
        metadata-extractor-images__94e1bdbb03c42581d8407602634636ea.png
        metadata-extractor-images__ac6343a98f8edabfcc6e536dd75aacb0.png
        metadata-extractor-images__c-94e1bdbb03c42581d8407602634636ea.png
        metadata-extractor-images__c53911b0385c34a8204c30fdc14ea5cc.png Pillow__1_trns.png Pillow__badbitssize.bmp
        Pillow__black_and_white.ico Pillow__crash-0da013a13571cc8eb457a39fee8db18f8a3c7127.tif
        Pillow__crash-74d2a78403a5a59db1fb0a2b8735ac068a75f6e3.tif Pillow__DXGI_FORMAT_BC7_UNORM_SRGB.png
        Pillow__g4_orientation_2.tif Pillow__g4_orientation_3.tif Pillow__g4_orientation_4.tif
        Pillow__g4_orientation_5.tif Pillow__g4_orientation_6.tif Pillow__g4_orientation_7.tif
        Pillow__hopper_rle8_grayscale.bmp Pillow__icc-after-SOF.jpg Pillow__icc_profile_none.png
        Pillow__ignore_frame_size.mpo Pillow__l_trns.png Pillow__morph_a.png Pillow__multipage-lastframe.tif
        Pillow__pal1bg.png Pillow__pal1p1.bmp Pillow__pport_g4.tif Pillow__rdf.tif
        Pillow__separate_planar_extra_samples.tiff Pillow__syntax_num_frames_zero_default.png
        Pillow__tiff_strip_planar_raw_with_overviews.tif PixelProbe__corrupted.jpg
    """,
    "PV102": """
        AFL__libjpeg-sos-leak.jpg AFL__libtiff-uninit-mem4.tif exiv2__cve_2017_1000126_stack-oob-read.webp
        exiv2__exiv2-bug1247.jpg exiv2__exiv2-bug841.png exiv2__issue_3455_sigma_print0x0009_empty.jpg
        exiv2__issue_790_poc2.png exiv2__issue_960.poc.webp exiv2__issue_ghsa_mvc4_g5pv_4qqq_poc.jpg
        extracted_feature.json fuzzing-corpus__gif2.gif fuzzing-corpus__invalid-compression-RLE4.bmp
        fuzzing-corpus__invalid-signature.bmp fuzzing-corpus__issue_09b.gif fuzzing-corpus__issue_12.gif
        fuzzing-corpus__roundtripfail.jpg fuzzing-corpus__testorig12.jpg image__Bad_clrsUsed.bmp
        image__oss-fuzz-36829.jpeg image__rgb24rle24.bmp image__rgb32f_bw.tiff image__rgbr4x4.hdr.tiff
        image__rle_overflow.bmp lfs_pointer_1.png metadata-extractor-images__4aae896ba900c48c63cffc0cc9f8c4dc.png
        metadata-extractor-images__9032e447e32e09aef5b7de2fab42494d.png
        metadata-extractor-images__9a3e0c7b687b526987e2270541002d47.png
        metadata-extractor-images__c-m2-66ac49ef3f48ac9482049e1ab57a53e9.png
        metadata-extractor-images__c-m2-a1f9d85a8243b884d40e74f656c55e75.png
        metadata-extractor-images__e76546768d4a8f2f4c39339345c7614c.png
        metadata-extractor-images__f5e7b9db8e8d002a26304f5c81889ee1.png
        metadata-extractor-images__m2-272ae9468b7883e5cf61873a17271fb4.png Pillow__badheadersize.bmp Pillow__broken.png
        Pillow__broken_data_stream.png Pillow__crash-1152ec2d1a1a71395b6f2ce6721c38924d025bf3.tif
        Pillow__crash-86214e58da443d2b80820cff9677a38a33dcbbca.tif Pillow__hopper_webp.tif
        Pillow__oom-225817ca0f8c663be7ab4b9e717b02c661e66834.tif Pillow__rgb24jpeg.bmp Pillow__rgba16-4444.bmp
        Pillow__seek_too_large.tif Pillow__syntax_num_frames_zero.png Pillow__tiff_overflow_rows_per_strip.tif
        Pillow__truncated_end_chunk.png Pillow__truncated_image.png Pillow__truncated_jpeg.jpg Pillow__ultrahdr.jpg
        Pillow__zero_width.gif PixelProbe__valid.jpeg PixelProbe__valid.webp small__gif.gif small__webp.webp
        TwelveMonkeys__0x00-to-0xFF-between-segments.jpg TwelveMonkeys__515e763c-02a8-11e7-85fb-573b41201f05.jpg
        TwelveMonkeys__broken-bogus-data-prepended-real-jfif-start-at-4801.jpg
        wuffs__hippopotamus.interlaced.truncated.gif wuffs__hippopotamus.interlaced.truncated.png
        wuffs__peacock.default.truncated.jpeg
    """,
    "PV110 PV112": """
        fuzzing-corpus__invalid-icc-profile.jpg
    """,
    "PV110 PV116": """
        fuzzing-corpus__vuln-images-hal.jpeg
    """,
    "PV111": """
        Pillow__l2rgb_read.bmp
    """,
    "PV112": """
        fuzzing-corpus__background.jpg fuzzing-corpus__bmp-size-1x1-24bpp.bmp Pillow__1x1_l.png
        Pillow__child_ifd_jpeg.tiff Pillow__comment_after_only_frame.gif Pillow__jfif_unit_cm.jpg Pillow__xmp_padded.jpg
        pocs__rgb.png small__tiff.tif TwelveMonkeys__small_13x1.webp TwelveMonkeys__small_1x1.webp wuffs__exif.png
    """,
    "PV112 PV114": """
        Pillow__orientation_rectangle.jpg
    """,
    "PV112 PV115": """
        Pillow__background_outside_palette.gif Pillow__blend_transparency.png Pillow__no_palette.gif
    """,
    "PV112 PV116": """
        fuzzing-corpus__83804-1.gif Pillow__tRNS_null_1x1.png
    """,
    "PV113": """
        fuzzing-corpus__781.jpg Pillow__badwidth.bmp Pillow__decompression_bomb.gif Pillow__decompression_bomb.ico
    """,
    "PV114": """
        exiv2__exiv2-bug1202.jpg fuzzing-corpus__parliament_1.png fuzzing-corpus__parliament_2.png libvips__2.jpg
        libvips__7.jpg libvips__8.jpg Pillow__empty_gps_ifd.jpg Pillow__exif_imagemagick_orientation.png
        Pillow__hopper_orientation_2.jpg Pillow__hopper_orientation_2.webp Pillow__hopper_orientation_3.jpg
        Pillow__hopper_orientation_3.webp Pillow__hopper_orientation_4.jpg Pillow__hopper_orientation_4.webp
        Pillow__hopper_orientation_5.jpg Pillow__hopper_orientation_5.webp Pillow__hopper_orientation_6.webp
        Pillow__hopper_orientation_7.jpg Pillow__hopper_orientation_7.webp Pillow__hopper_orientation_8.webp
        Pillow__rot0mir0.avif Pillow__rot1mir0.avif Pillow__rot2mir0.avif Pillow__rot3mir0.avif
        Pillow__xmp_tags_orientation.avif Pillow__xmp_tags_orientation_exiftool.png TwelveMonkeys__Portrait_3.jpg
        TwelveMonkeys__Portrait_4.jpg TwelveMonkeys__Portrait_5.jpg
    """,
    "PV115": """
        fuzzing-corpus__wrong-block-length.gif libvips__big-height.webp Pillow__blend_op_over_near_transparent.png
        Pillow__compression.tif Pillow__different_durations.png Pillow__iss634.webp Pillow__mode_grayscale.png
        Pillow__mode_grayscale_alpha.png Pillow__mode_palette.png Pillow__mode_palette_1bit_alpha.png
        Pillow__multipage.tiff wuffs__muybridge.gif
    """,
    "PV115 PV116": """
        fuzzing-corpus__APNG-from-GIF-Mouse.png image__anim.webp Pillow__dispose_bgnd_transparency.gif
    """,
    "PV116": """
        fuzzing-corpus__noise-solid.png go-fuzz-corpus__basn3p08-trns.png Pillow__10ct_32bit_128.tiff
        Pillow__16bit.MM.deflate.tif Pillow__16bit.s.tif Pillow__first_frame_transparency.gif Pillow__i_trns.png
        Pillow__lab.tif Pillow__pil123p.png Pillow__pil136.tiff Pillow__pil_sample_cmyk.jpg Pillow__rgb_trns.png
        Pillow__rgba32h56.bmp Pillow__tiff_strip_cmyk_jpeg.tif Pillow__tiff_strip_planar_16bit_RGBa.tiff
        Pillow__transparency.avif Pillow__transparent.webp Pillow__uint16_1_4660.tif Pillow__uncompressed_la.png
        TwelveMonkeys__warning-embedded-color-profile-invalid-ignored-cmyk.jpg
    """,
}

LIMITED = """
import resource
from phiv_data.cli.validate import main
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
raise SystemExit(main())
"""


def validated(folder: Path, root: Path, files: list[Path]) -> dict[str, set[str]]:
    """The codes of each file, shown in a row of its own, by a child process that may neither hang nor grow."""
    rows = [
        {"id": str(i), "source": "wild", "conversations": [
            {"images": [file.relative_to(root).as_posix()], "user": f"What is on page {i}?", "assistant": "a fox"}
        ]}
        for i, file in enumerate(files)
    ]  # fmt: skip
    (folder / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-c", LIMITED, str(folder / "val.jsonl"), "--images_root", str(root), "--format", "json"]
    child = subprocess.run([*command, "--num_workers", "0"], capture_output=True, timeout=300)
    assert child.returncode == 1, child.stderr.decode()
    assert b"Warning" not in child.stderr
    found: dict[str, set[str]] = {file.name: set() for file in files}
    for issue in json.loads(child.stdout)["issues"]:
        assert issue["json_path"] == "$.conversations[0].images[0]"
        found[files[issue["line"] - 1].name].add(issue["code"])
    return found


@pytest.fixture(scope="module")
def media(shared: Path) -> Path:
    return shared / "samples/broken_media"


def test_every_image_has_the_codes_that_it_should(media: Path, tmp_path: Path) -> None:
    expected = {name: set(codes.split()) for codes, names in EXPECTED.items() for name in names.split()}
    files = sorted(path for path in (media / "images").rglob("*") if path.is_file())
    assert validated(tmp_path, media / "images", files) == expected


def test_a_clip_is_no_image(media: Path, tmp_path: Path) -> None:
    files = sorted(path for path in (media / "video").rglob("*") if path.is_file())
    found = validated(tmp_path, media / "video", files)
    assert len(found) == len(files) > 30
    assert {name: codes for name, codes in found.items() if codes != {"PV102"}} == {}
