"Photos and tables as no program should write them: each is read for what it is, or refused by name, soon and in little memory."
import csv
import struct
import time
import warnings
import zlib
from io import BytesIO, StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from soak import LONG, fault

from skin_lesion.data import CLASSES, COLUMNS, PARTS, fit_photo, load_split, load_table, read_photo, verify

resource = pytest.importorskip("resource")  # which Windows lacks
BOUNDED = {"deadline": 2000, "database": None, "suppress_health_check": list(HealthCheck)}
PHOTOS = settings(max_examples=10_000 if LONG else 300, derandomize=not LONG, **BOUNDED)
TABLES = settings(max_examples=3000 if LONG else 100, derandomize=not LONG, **BOUNDED)
RED, BLUE = (200, 40, 30), (20, 60, 210)


def encoded(photo, form, **options):
    "The bytes of a picture in a format."
    buffer = BytesIO()
    photo.save(buffer, form, **options)
    return buffer.getvalue()


def plain(mode="RGB", size=(24, 17)):
    "A red picture, in any of Pillow's modes."
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], 200 * 257, np.uint16))
    photo = Image.new("RGB", size, RED)
    return photo.quantize(4) if mode == "P" else photo.convert(mode)


def turned_by(orientation):
    "Options that tell a reader how the camera was held."
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


FILM = {"save_all": True, "append_images": [Image.new("RGB", (24, 17), BLUE)] * 2, "duration": 40}
GOOD = {
    "JPEG": encoded(plain(), "JPEG"),
    "progressive JPEG": encoded(plain(), "JPEG", progressive=True),
    "grey JPEG": encoded(plain("L"), "JPEG"),
    "CMYK JPEG": encoded(plain("CMYK"), "JPEG"),
    "turned JPEG": encoded(plain(), "JPEG", **turned_by(6)),
    "JPEG of one pixel": encoded(plain(size=(1, 1)), "JPEG"),
    "PNG": encoded(plain(), "PNG"),
    "grey PNG": encoded(plain("L"), "PNG"),
    "16-bit PNG": encoded(plain("I;16"), "PNG"),
    "PNG with alpha": encoded(plain("RGBA"), "PNG"),
    "grey PNG with alpha": encoded(plain("LA"), "PNG"),
    "palette PNG": encoded(plain("P"), "PNG"),
    "animated PNG": encoded(plain(), "PNG", **FILM),
    "PNG of one pixel": encoded(plain(size=(1, 1)), "PNG"),
    "BMP": encoded(plain(), "BMP"),
    "palette BMP": encoded(plain("P"), "BMP"),
    "WebP": encoded(plain(), "WEBP", lossless=True),
    "WebP with alpha": encoded(plain("RGBA"), "WEBP", lossless=True),
    "animated WebP": encoded(plain(), "WEBP", lossless=True, **FILM),
    "turned WebP": encoded(plain(), "WEBP", lossless=True, **turned_by(8)),
}
FOREIGN = {"GIF": encoded(plain(), "GIF"), "TIFF": encoded(plain(), "TIFF"), "text": b"these are words", "nothing": b"", "zeros": bytes(5000)}


@pytest.mark.parametrize("kind", GOOD)
def test_a_photo_of_any_kind_is_read_for_what_it_shows(kind, tmp_path):
    path = tmp_path / "photo.png"  # the content counts, not the ending
    path.write_bytes(GOOD[kind])
    grey = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    expected = (200,) * 3 if "16-bit" in kind else (grey,) * 3 if "grey" in kind else RED
    photo = read_photo(path)
    shape = (1, 1, 3) if "one pixel" in kind else (24, 17, 3) if "turned" in kind else (17, 24, 3)
    assert photo.dtype == np.uint8 and photo.shape == shape
    assert np.abs(photo.astype(int) - expected).max() <= 4


UPRIGHT = {1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
UPRIGHT |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_exif_orientation_is_applied(orientation, form, tmp_path):
    stored = np.random.default_rng(0).integers(0, 255, (7, 11, 3), dtype=np.uint8)
    (tmp_path / "photo").write_bytes(encoded(Image.fromarray(stored), form, lossless=True, **turned_by(orientation)))
    assert np.array_equal(read_photo(tmp_path / "photo"), UPRIGHT[orientation](stored))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("side", [None, 16])
def test_a_jpeg_is_turned_upright_at_any_scale(orientation, side, tmp_path):
    blocks = np.arange(6, dtype=np.uint8).reshape(2, 3) * 40
    stored = Image.fromarray(np.kron(blocks, np.ones((64, 64), np.uint8))).convert("RGB")
    (tmp_path / "photo").write_bytes(encoded(stored, "JPEG", quality=95, **turned_by(orientation)))
    photo, expected = read_photo(tmp_path / "photo", side), UPRIGHT[orientation](blocks)
    assert (photo.shape[0] < 2 * 64) == (side is not None)
    middle = [((np.arange(n) + 0.5) * length / n).astype(int) for n, length in zip(expected.shape, photo.shape, strict=False)]
    assert np.abs(photo[np.ix_(*middle)].astype(int) - expected[..., None]).max() <= 4


def test_the_centre_square_is_cut_from_either_side():
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 255
    assert fit_photo(wide, 8).min() == fit_photo(wide.swapaxes(0, 1), 8).min() == 255


@st.composite
def damage(draw):
    "A change to the bytes of a file."
    kind, where, length = draw(st.sampled_from(["cut", "flip", "zero", "drop", "grow", "swap"])), draw(st.floats(0, 1)), draw(st.integers(1, 400))
    noise = draw(st.binary(min_size=1, max_size=8))

    def change(content):
        at = round(where * len(content))
        end = at + length
        flipped = bytes(byte ^ noise[i % len(noise)] for i, byte in enumerate(content[at : at + len(noise)]))
        return {
            "cut": content[:at],
            "flip": content[:at] + flipped + content[at + len(flipped) :],
            "zero": content[:at] + bytes(len(content[at:end])) + content[end:],
            "drop": content[:at] + content[end:],
            "grow": content[:at] + noise * length + content[at:],
            "swap": content[at:] + content[:at],
        }[kind]

    return change


def check_photo(path, side):
    "Read a file as training, prediction and verification do; the pixels, or None if it is refused by name."
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            photo = read_photo(path, side)
    except ValueError as error:
        assert str(path) in str(error) and str(error).endswith(("Fetch it again.", "Make it smaller first."))
        return None
    assert photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and fit_photo(photo, 16).shape == (16, 16, 3)
    return photo


@pytest.fixture(scope="module")
def memory():
    "What the process may hold in the end: 600 MB more than at first."
    allowed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 600_000  # kilobytes
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < allowed


@pytest.mark.usefixtures("memory")
@PHOTOS
@given(
    kind=st.sampled_from([*GOOD, *FOREIGN]),
    changes=st.lists(damage(), max_size=3),
    suffix=st.sampled_from([".jpg", ".png", ".bmp", ".webp", ".JPEG"]),
    side=st.sampled_from([None, 16]),
)
def test_a_damaged_photo_is_read_or_refused(kind, changes, suffix, side, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"fuzzed{suffix}"
    content = (GOOD | FOREIGN)[kind]
    for change in changes:
        content = change(content)
    path.write_bytes(content)
    with fault("damaged photos"):
        photo = check_photo(path, side)
        assert changes or (photo is not None) == (kind in GOOD)


def sized(form, side):
    "A small file that says it holds a picture of side x side pixels."
    content = bytearray(GOOD[form])
    if form == "PNG":
        content[16:24] = struct.pack(">II", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif form == "BMP":
        content[18:26] = struct.pack("<ii", side, side)
    elif form == "animated WebP":
        content[24:30] = struct.pack("<I", side - 1)[:3] * 2
    else:
        at = next(i for i in range(len(content)) if content[i] == 0xFF and content[i + 1] in (0xC0, 0xC2))
        content[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(content)


def many_scans():
    "A progressive JPEG of 64 million pixels whose scans come again and again."
    content = sized("progressive JPEG", 8000)
    first = content.index(b"\xff\xda")
    return content[:first] + content[first:-2] * 200 + content[-2:]


def run_length(side=8000):
    "A BMP that is written as runs of one pixel."
    header = struct.pack("<2sIHHI", b"BM", 0, 0, 0, 54 + 1024) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, 0, 0, 0, 256, 0)
    return header + bytes(1024) + b"\x01\x07" * 8_000_000


HUGE = {
    **{f"30,000 x 30,000 {form}": lambda form=form: (sized(form, 30_000), 0) for form in ("JPEG", "progressive JPEG", "PNG", "BMP", "animated WebP")},
    "500 MB of zeros": lambda: (b"", 500_000_000),
    "a JPEG's head and 500 MB of zeros": lambda: (b"\xff\xd8\xff\xe0", 500_000_000),
    "a JPEG's head and 95 MB of zeros": lambda: (b"\xff\xd8\xff\xe0", 95_000_000),
    "a PNG's head and 95 MB of zeros": lambda: (GOOD["PNG"][:33], 95_000_000),
    "a WebP's head and 95 MB of zeros": lambda: (GOOD["WebP"][:30], 95_000_000),
    "a BMP's head and 95 MB of zeros": lambda: (sized("BMP", 30_000)[:54], 95_000_000),
    "a JPEG of fill bytes": lambda: (b"\xff\xd8" + b"\xff" * 20_000_000, 0),
    "a JPEG of empty segments": lambda: (b"\xff\xd8" + b"\xff\xe1\x00\x02" * 5_000_000, 0),
    "a JPEG of endless scans": lambda: (many_scans(), 0),
    "a BMP of runs of one pixel": lambda: (run_length(), 0),
}


@pytest.mark.parametrize("kind", HUGE)
def test_what_would_take_minutes_or_gigabytes_is_refused(kind, tmp_path):
    content, size = HUGE[kind]()
    with open(tmp_path / "huge.jpg", "wb") as file:
        file.write(content)
        if size:
            file.truncate(size)
    marks = Path("/proc/self/clear_refs")
    if marks.exists():
        marks.write_text("5")  # the highest mark so far is forgotten
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.thread_time()
    with fault("huge photos"):
        assert check_photo(tmp_path / "huge.jpg", 224) is None
        assert time.thread_time() - start < 2
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600_000  # kilobytes


ODD = ["", " ", "nan", "NA", "=1+1", '=HYPERLINK("http://a.b","c")', "@SUM(A1)", "a,b", "a;b", "a\tb", 'say "hi"', "Hauttumor ü", "two\nlines"]
ODD += ["x" * 300, "../../etc/passwd", "/dev/zero", "P1.jpg", "0012", "1e5", "\x00", "\ufeff"]
CELL = st.one_of(st.sampled_from(ODD), st.text(max_size=6))
HEADERS = [["image_id", "lesion_id", "dx", "dx_type", "age", "sex", "localization"], ["image_id", "dx"]]
HEADERS += [["image", "MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"], ["isic_id", "lesion_id", "diagnosis_2", "diagnosis_3", "age_approx"]]
WORDS = {"dx": st.sampled_from(CLASSES), "image_id": st.integers(0, 99).map("P{}".format), "part": st.sampled_from(PARTS)}
WORDS |= dict.fromkeys(HEADERS[2][1:], st.sampled_from(["0.0", "1.0"]))


def written(rows, separator, newline, quoting, mark):
    "The bytes of a table."
    text = StringIO()
    csv.writer(text, delimiter=separator, lineterminator=newline, quoting=quoting).writerows(rows)
    return ("\ufeff" * mark + text.getvalue()).encode("utf-8", "surrogatepass")


@st.composite
def tables(draw, headers=HEADERS):
    "The bytes of a table that nobody should have written."
    header = list(draw(st.sampled_from(headers)))
    rows = [[draw(st.one_of(WORDS.get(name, CELL), CELL)) for name in header] for _ in range(draw(st.integers(0, 4)))]
    for change in draw(st.lists(st.sampled_from(["drop", "double", "blank", "long"]), max_size=2)):
        at = draw(st.integers(0, len(header) - 1))
        if change == "drop":
            header, *rows = [row[:at] + row[at + 1 :] for row in [header, *rows]]
        elif change == "double":
            header, *rows = [[*row, row[at]] for row in [header, *rows]]
        else:
            rows = [[""] * len(header), *rows] if change == "blank" else [[*row, ""] for row in rows]
        if not header:
            return b""
    how = draw(st.sampled_from(",;\t")), draw(st.sampled_from(["\n", "\r\n", "\r"])), draw(st.sampled_from([0, 1])), draw(st.booleans())
    content = written([header, *rows], *how)
    for change in draw(st.lists(damage(), max_size=1)):
        content = change(content)
    return content


@TABLES
@given(content=tables())
def test_an_odd_table_is_read_or_refused(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "tables" / "meta.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    with fault("odd tables"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for read in (load_table, verify):
            try:
                table = read(file)
            except ValueError as error:
                assert "meta.csv" in str(error)
                continue
            if read is load_table:
                assert list(table.columns) == COLUMNS and table["image_id"].is_unique and not table[["image_id", "lesion_id"]].isna().any(axis=None)
                assert table["dx"].isin(CLASSES).all() and table.groupby("lesion_id")["dx"].nunique().max() == 1


@TABLES
@given(content=tables([["image_id", "lesion_id", "part"]]))
def test_an_odd_split_is_read_or_refused(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "split.csv"
    file.write_bytes(content)
    table = pd.DataFrame({"image_id": ["P1"], "lesion_id": ["L1"], "dx": ["nv"]})
    with fault("odd splits"):
        try:
            split = load_split(file, table)
        except ValueError as error:
            assert "split.csv" in str(error), error
        else:
            assert split["part"].isin(PARTS).all()


@TABLES
@given(
    rows=st.lists(st.tuples(st.text("abz019_-=.+", min_size=2, max_size=9), st.sampled_from(CLASSES)), min_size=1, unique_by=lambda r: r[0]),
    how=st.tuples(st.sampled_from(",;\t"), st.sampled_from(["\n", "\r\n"]), st.sampled_from([0, 1]), st.booleans()),
    note=st.sampled_from([cell for cell in ODD if cell not in ("\x00", "two\nlines")]),
)
def test_a_sound_table_means_the_same_however_it_is_written(rows, how, note, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "tables" / "meta.csv"
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(written([["image_id", "note", "lesion_id", "dx"], *[(i, note, i, dx) for i, dx in rows]], *how))
    with fault("sound tables"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert load_table(file)[["image_id", "dx"]].to_numpy().tolist() == [[i, dx] for i, dx in rows]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_id,lesion_id,dx,dx\nA,1,nv,mel\n", "'dx' stands 2 times"),
        ("image_id,lesion_id,dx\nA,1,nv,x\nB,2,mel,x\n", "one cell per column"),
        ("image_id,lesion_id,dx\nA,1,nv\nB,2,mel,x\n", "one cell per column"),
        ("image_id,lesion_id,dx\nA,1,nv\n,2,mel\n", "Row 3 .* has no image_id"),
        ("image_id,lesion_id,dx\nA,1,=1+1\n", "'=1\\+1' in row 2"),
        ("image_id;lesion_id\nA;1\n", "No table in a known layout"),
        ('image_id,lesion_id,dx\nA,1,nv\n"B,2,mel\n', "not a whole table"),
    ],
)
def test_a_table_that_could_be_read_in_two_ways_is_refused(text, said, tmp_path):
    (tmp_path / "meta.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        load_table(tmp_path / "meta.csv")


def test_a_table_with_a_missing_diagnosis_among_two_is_reported(tmp_path):
    (tmp_path / "meta.csv").write_text("image_id,lesion_id,dx\nA,1,nv\nB,1,mel\nC,1,\n")
    kinds = {problem["kind"] for problem in verify(tmp_path)["problems"]}
    assert {"mixed_lesion", "unknown_diagnosis"} <= kinds
