"""Every source gives the same pictures, and every sink gives the same vectors back."""

import io
import json
import tarfile

import numpy as np
import pytest
import torch

pa = pytest.importorskip("pyarrow")

from encode_data import COUNT, encode, make_run, picture_bytes  # noqa: E402
from pyarrow import parquet  # noqa: E402

from sparsight.cli.app import app  # noqa: E402
from sparsight.encode import EncoderSettings, How  # noqa: E402
from sparsight.encode import encode as run_encode  # noqa: E402
from sparsight.encode.gallery import pictures_of  # noqa: E402
from sparsight.encode.ledger import Ledger  # noqa: E402
from sparsight.encode.nearest import neighbours  # noqa: E402
from sparsight.encode.reading import open_sink, vectors_of  # noqa: E402
from sparsight.encode.sources import source_of  # noqa: E402
from sparsight.encode.sources.shards import expanded  # noqa: E402
from sparsight.errors import ImagesError, SparsightError  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run, pictures named so that their order is that of their numbers, and their sink."""
    place = tmp_path_factory.mktemp("sources")
    run, images = make_run(place), place / "images"
    images.mkdir()
    for number in range(COUNT):
        (images / f"{number:03}.png").write_bytes(picture_bytes(number))
    encode(run, images, place / "sink")
    return run, images, place / "sink"


def as_list(images, place):
    (place / "names.txt").write_text("\n".join(map(str, sorted(images.iterdir()))) + "\n\n")
    return place / "names.txt"


def as_shards(images, place):
    for shard in range(2):
        with tarfile.open(place / f"{shard:03}.tar", "w") as tar:
            for path in sorted(images.iterdir())[shard * 12 : shard * 12 + 12]:
                tar.add(path, path.name)
                label = tarfile.TarInfo(path.with_suffix(".json").name)
                tar.addfile(label, io.BytesIO())
    return place


def as_pattern(images, place):
    as_shards(images, place)
    return f"{place}/{{000..001}}.tar"


def table(images, **columns):
    files = sorted(images.iterdir())
    return pa.table(columns | {"n": list(range(len(files)))})


def as_bytes(images, place):
    content = [path.read_bytes() for path in sorted(images.iterdir())]
    parquet.write_table(table(images, jpg=content), place / "a.parquet", row_group_size=5)
    return place / "a.parquet"


def as_paths(images, place):
    parquet.write_table(
        table(images, path=[str(p) for p in sorted(images.iterdir())]), place / "a.parquet"
    )
    return place


def structs(images):
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(images.iterdir())]
    return table(
        images, image=pa.array(cells, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    )


def as_structs(images, place):
    parquet.write_table(structs(images), place / "a.parquet")
    return place / "a.parquet"


def as_saved(images, place):
    """What `datasets` writes with save_to_disk."""
    with pa.OSFile(str(place / "data-00000-of-00001.arrow"), "wb") as file:
        whole = structs(images)
        with pa.ipc.new_stream(file, whole.schema) as writer:
            writer.write_table(whole, max_chunksize=7)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
    (place / "state.json").write_text(json.dumps(state))
    return place


SOURCES = (as_list, as_shards, as_pattern, as_bytes, as_paths, as_structs, as_saved)


def vectors(sink, column="pooled"):
    opened = open_sink(sink)
    found = list(opened.sink.read(opened.parts, ["id", "key", column]))
    return [
        (row["key"], np.array(row[column]))
        for each in found
        for row in pa.table(each.to_pydict()).to_pylist()
    ]


@pytest.mark.parametrize("lay", SOURCES, ids=lambda lay: lay.__name__)
def test_a_source_is_the_same_pictures_in_another_form(made, tmp_path, lay):
    run, images, sink = made
    (tmp_path / "source").mkdir()
    summary = encode(run, lay(images, tmp_path / "source"), tmp_path / "sink")
    assert (summary["sink"]["pictures"], summary["sink"]["quarantined"]) == (COUNT - 2, 2)
    here, there = vectors(tmp_path / "sink"), vectors(sink)
    assert [key for key, _ in here] == [key for key, _ in there]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(here, there, strict=True))
    opened = open_sink(tmp_path / "sink")
    ids = [name for names, _ in vectors_of(opened, "pooled") for name in names]
    assert pictures_of(opened, ids[:1])[ids[0]] == picture_bytes(0)


def test_a_shard_that_changes_stops_the_run(made, tmp_path, monkeypatch):
    run, images, _ = made
    place = as_bytes(images, tmp_path)
    usual = Ledger.mark

    def meanwhile(ledger, part, tally):
        usual(ledger, part, tally)
        parquet.write_table(table(images, jpg=[b""] * COUNT), place)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", meanwhile)
        with pytest.raises(SparsightError, match="changed while it was read; what was encoded is kept"):
            encode(run, place, tmp_path / "sink")
    with pytest.raises(ImagesError, match="changed since they were encoded"):
        encode(run, place, tmp_path / "sink")


def test_names_of_rows_may_be_a_column(made, tmp_path):
    run, images, _ = made
    place = as_bytes(images, tmp_path)
    source = source_of(str(place), id_column="n")
    assert [record.id for record in source.records()] == [str(n) for n in range(COUNT)]
    parquet.write_table(table(images, jpg=[b""] * COUNT, same=["a"] * COUNT), place)
    with pytest.raises(ImagesError, match="names 'a' 24 times"):
        run_encode(EncoderSettings(model=str(run)), place, tmp_path / "sink", id_column="same")


def laid(kind):
    """How to lay out one bad source, and what is said of it."""

    def lay(images, place):
        if kind == "two kinds":
            as_shards(images, place)
            (place / "a.png").write_bytes(picture_bytes(0))
        elif kind == "no picture":
            (place / "notes.md").write_text("x")
        elif kind == "cut shard":
            as_shards(images, place)
            content = (place / "001.tar").read_bytes()
            (place / "001.tar").write_bytes(content[: len(content) // 2 + 100])
        elif kind == "compressed":
            with tarfile.open(place / "a.tar.gz", "w:gz") as tar:
                tar.add(images / "000.png", "000.png")
            return place / "a.tar.gz"
        elif kind == "no column":
            parquet.write_table(pa.table({"n": [1]}), place / "a.parquet")
        elif kind == "no parquet":
            (place / "a.parquet").write_bytes(b"x" * 100)
        elif kind == "splits":
            (place / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
        elif kind == "twice":
            (place / "a.txt").write_text("x.png\nx.png\n")
            return place / "a.txt"
        return place

    return lay


BAD = {
    "two kinds": "holds pictures and .tar shards: say which",
    "no picture": "holds no picture",
    "cut shard": "is no tar file that can be read",
    "compressed": "unpack it first",
    "no column": "has no column of pictures .*: name it with --column, one of n",
    "no parquet": "cannot be read",
    "splits": "holds several splits: give one of train, test",
    "twice": "names 'x.png' 2 times",
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_source_is_refused_before_the_work(made, tmp_path, kind):
    run, images, _ = made
    (tmp_path / "source").mkdir()
    place = laid(kind)(images, tmp_path / "source")
    with pytest.raises(ImagesError, match=BAD[kind]) as caught:
        encode(run, place, tmp_path / "sink")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))
    assert not (tmp_path / "sink" / "features").exists()


def test_patterns_of_shards():
    assert expanded("a{08..10}/x-{0..1}.tar") == [
        f"a{n}/x-{m}.tar" for n in ("08", "09", "10") for m in (0, 1)
    ]


@pytest.mark.parametrize("kind", ["lance", "webdataset"])
def test_a_sink_of_another_format_holds_the_same(made, tmp_path, monkeypatch, kind):
    """Also where a part was written and the run killed before its marker."""
    if kind == "lance":
        pytest.importorskip("lance")
    run, images, sink = made
    usual, how = Ledger.mark, How(format=kind, part_pictures=7)

    def killed(ledger, part, tally):
        if part == 1:
            raise KeyboardInterrupt
        usual(ledger, part, tally)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "mark", killed)
        with pytest.raises(KeyboardInterrupt):
            encode(run, images, tmp_path / "sink", how)
    assert len(vectors(tmp_path / "sink")) == 6  # what has no marker is not there
    encode(run, images, tmp_path / "sink", how)
    here, there = vectors(tmp_path / "sink"), vectors(sink)
    assert [key for key, _ in here] == [key for key, _ in there]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(here, there, strict=True))
    with pytest.raises(SparsightError, match=f"is of format {kind}, not parquet"):
        encode(run, images, tmp_path / "sink")


def test_other_libraries_read_the_sinks(made, tmp_path):
    run, images, sink = made
    wanted = dict(vectors(sink))
    datasets = pytest.importorskip("datasets")
    lance, webdataset = pytest.importorskip("lance"), pytest.importorskip("webdataset")
    rows = datasets.load_dataset(
        "parquet",
        data_files=str(sink / "features" / "*.parquet"),
        split="train",
        cache_dir=str(tmp_path),
    )
    assert {row["key"]: row["pooled"] for row in rows} == {k: v.tolist() for k, v in wanted.items()}
    encode(run, images, tmp_path / "l", How(format="lance"))
    found = lance.dataset(tmp_path / "l" / "features.lance").to_table(columns=["key", "pooled"])
    assert set(found["key"].to_pylist()) == set(wanted)
    encode(run, images, tmp_path / "w", How(format="webdataset"), outputs=("maps", "pooled"))
    with (tmp_path / "w" / "features" / "000000.tar").open("rb") as shard:
        opened = [{"url": "000000.tar", "stream": shard}]
        members = webdataset.tariterators.tar_file_expander(opened)
        samples = list(webdataset.tariterators.group_by_keys(members))
    assert [json.loads(sample["json"])["key"] for sample in samples] == list(wanted)[: len(samples)]
    assert np.load(io.BytesIO(samples[0]["map.npy"])).shape == (6, 8, 48)


@pytest.mark.parametrize("index", [False, True])
def test_neighbours_are_the_nearest_by_cosine(made, index):
    if index:
        pytest.importorskip("faiss")
    _, images, sink = made
    found = neighbours(sink, images / "007.png", 5, "cls", index)
    assert found[0].id == "007.png"
    assert found[0].cosine == pytest.approx(1, abs=1e-5)
    opened = open_sink(sink)
    ids, each = zip(*vectors_of(opened, "cls"), strict=True)
    whole = torch.tensor(np.concatenate(each))
    names = [name for part in ids for name in part]
    scores = whole @ whole[names.index("007.png")]
    best = scores.topk(5)
    assert [match.id for match in found] == [names[n] for n in best.indices]
    assert np.allclose([match.cosine for match in found], best.values, atol=1e-5)


def test_neighbours_end_in_a_page(made, tmp_path):
    _, images, sink = made
    page = tmp_path / "page.html"
    words = ["neighbours", sink, images / "003.png", "--page", page, "--count", 3]
    app([str(word) for word in words], standalone_mode=False)
    text = page.read_text()
    assert text.count("<img") == 4
    assert "003.png" in text
    with pytest.raises(SparsightError, match=r"has no vector 'tap1': it has pooled, cls"):
        neighbours(sink, images / "003.png", column="tap1")
    with pytest.raises(SparsightError, match="is no sink of sparsight encode"):
        neighbours(tmp_path, images / "003.png")
    with pytest.raises(SparsightError, match="cannot be read"):
        neighbours(sink, images / "005.png")
