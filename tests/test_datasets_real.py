"""Networks, annotations and screens: their formats, their checks, and where a file is put."""

from __future__ import annotations

import gzip
import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import cellfuse as cf
from cellfuse.datasets import _fetch
from cellfuse.datasets import annotations as drugs_module
from cellfuse.datasets import networks as networks_module
from cellfuse.datasets import screens as screens_module
from cellfuse.datasets._fetch import Remote, locate
from cellfuse.datasets.annotations import drug_targets
from cellfuse.datasets.gene_sets import corum, pathways, signor
from cellfuse.datasets.networks import humap, reactome, stringdb
from cellfuse.datasets.screens import lincs_pilot1, papalexi_eccite, perturb_multi, scgenescope

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LINKS, INFO = "9606.protein.physical.links.v12.0.txt.gz", "9606.protein.info.v12.0.txt.gz"


def packed(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode(), mtime=0))
    return path


def sha256(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


# -- fetching -------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setattr(_fetch, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """Address of a server on this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    made = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=made.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{made.server_port}", folder
    made.shutdown()
    thread.join()
    made.server_close()


def remote(url: str, checksum: str | None) -> Remote:
    return Remote("pairs.txt", f"{url}/pairs.txt", "CC0", checksum)


def test_a_file_is_fetched_once_and_checked(server, cache):
    url, folder = server
    (folder / "pairs.txt").write_text("entity1,entity2\nA,B\n")
    wanted = remote(url, sha256(folder / "pairs.txt"))
    first = locate(wanted)
    assert first == cache / "pairs.txt"
    assert first.read_text() == "entity1,entity2\nA,B\n"
    (folder / "pairs.txt").unlink()  # the second time nothing is asked for
    assert locate(wanted) == first


def test_another_file_than_the_known_one_is_refused(server, cache):
    url, folder = server
    (folder / "pairs.txt").write_text("something else")
    with pytest.raises(ValueError, match="no longer gives the file that this version"):
        locate(remote(url, "sha256:" + "0" * 64))
    assert not (cache / "pairs.txt").exists()


def test_without_a_known_checksum_nothing_is_fetched_unchecked(server, cache):
    url, folder = server
    (folder / "pairs.txt").write_text("A")
    with pytest.raises(FileNotFoundError, match=rf"Fetch {url}/pairs\.txt and pass `path`"):
        locate(remote(url, None))
    assert not cache.exists()
    own = sha256(folder / "pairs.txt")
    assert locate(remote(url, None), checksum=own).read_text() == "A"
    (cache / "pairs.txt").unlink()
    assert locate(remote(url, None), checksum={"pairs.txt": own}).read_text() == "A"
    with pytest.raises(FileNotFoundError, match="no checksum"):
        locate(remote(url, None), checksum={"other.txt": own})


def test_offline_the_file_and_its_place_are_named(cache):
    wanted = Remote("pairs.txt", "http://127.0.0.1:9/pairs.txt", "CC0", "sha256:" + "0" * 64)
    with pytest.raises(ConnectionError) as error:
        locate(wanted)
    for part in ("http://127.0.0.1:9/pairs.txt", str(cache / "pairs.txt"), "`path`", "CC0"):
        assert part in str(error.value)
    # What the text asks for works: with the file in its place nothing is fetched.
    cache.mkdir(exist_ok=True)
    (cache / "pairs.txt").write_text("A")
    placed = Remote("pairs.txt", wanted.url, "CC0", sha256(cache / "pairs.txt"))
    assert locate(placed) == cache / "pairs.txt"


def test_an_own_copy_is_taken_as_it_is_or_held_against_a_checksum(tmp_path):
    own = tmp_path / "mine.txt"
    own.write_text("A")
    wanted = remote("http://127.0.0.1:9", "sha256:" + "0" * 64)
    assert locate(wanted, own) == own
    assert locate(wanted, own, checksum="md5:" + hashlib.md5(b"A").hexdigest()) == own
    with pytest.raises(ValueError, match=r"mine\.txt.*is not the file that was asked for"):
        locate(wanted, own, checksum="0" * 64)
    with pytest.raises(ValueError, match="a checksum such as 'sha256:12ab"):
        locate(wanted, own, checksum="crc:12")
    with pytest.raises(FileNotFoundError, match="there is no file.*lies at http"):
        locate(wanted, tmp_path / "absent.txt")


@pytest.mark.parametrize(
    "known",
    [
        networks_module.REACTOME,
        networks_module.HUMAP,
        drugs_module.REPURPOSING_HUB,
        screens_module.PAPALEXI,
    ],
    ids=lambda r: r.name,
)
def test_what_is_fetched_has_a_version_and_a_checksum(known):
    kind, digits = known.checksum.split(":")
    assert len(digits) == {"md5": 32, "sha256": 64}[kind]
    int(digits, 16)
    assert known.url.startswith("https://")
    assert known.url.endswith(known.name)


# -- networks -------------------------------------------------------------------------------------

PROTEINS = ["9606.ENSP01", "9606.ENSP02", "9606.ENSP03", "9606.ENSP04"]
STRING_LINKS = "protein1 protein2 combined_score\n" + "\n".join(
    f"{PROTEINS[a]} {PROTEINS[b]} {score}"
    for a, b, score in [
        (0, 1, 990), (1, 0, 990), (0, 2, 950), (2, 0, 950), (1, 2, 949), (2, 1, 949), (3, 0, 999),
    ]
)  # fmt: skip
STRING_INFO = (
    "#string_protein_id\tpreferred_name\tprotein_size\tannotation\n"
    "9606.ENSP01\tTP53\t393\tActs as a \"guardian; 5'-end.\n"
    "9606.ENSP02\tMDM2\t491\tx\n"
    "9606.ENSP03\tATM\t3056\tx\n"
)


@pytest.fixture
def string_folder(tmp_path: Path) -> Path:
    packed(tmp_path / "string" / LINKS, STRING_LINKS)
    packed(tmp_path / "string" / INFO, STRING_INFO)
    return tmp_path / "string"


@pytest.mark.parametrize("inside", ["", LINKS], ids=["folder", "file"])
def test_string_is_read_from_its_own_files(string_folder, inside):
    edges = stringdb(path=string_folder / inside)
    # Each pair once, symbols in order; 950 and 949 are not above .95; ENSP04 has no name.
    assert edges.to_dict("list") == {"source": ["MDM2"], "target": ["TP53"], "score": [0.99]}
    assert len(stringdb(path=string_folder / inside, score=None)) == 3
    assert len(stringdb(path=string_folder / inside, score=0.96)) == 1


def test_string_names_what_is_missing_and_where_it_lies(string_folder, cache, monkeypatch):
    place = r"https://stringdb-downloads\.org/download/protein\.info\.v12\.0/9606"
    (string_folder / INFO).unlink()
    with pytest.raises(FileNotFoundError, match=place):
        stringdb(path=string_folder)
    monkeypatch.setattr(networks_module, "STRING_URL", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"10090\.protein\.links\.v12\.0\.txt\.gz"):
        stringdb(physical=False, species=10090)
    with pytest.raises(ValueError, match="a score from 0 to 1"):
        stringdb(score=950, path=string_folder)


def test_a_string_folder_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no file or folder 'downloads'.*links.*info"):
        stringdb(path="downloads/")


def test_string_is_fetched_with_the_checksums_that_are_given(
    string_folder, server, cache, monkeypatch
):
    url, folder = server
    monkeypatch.setattr(networks_module, "STRING_URL", url)
    checksums = {name: sha256(string_folder / name) for name in (LINKS, INFO)}
    for name in (LINKS, INFO):
        release = folder / name.removeprefix("9606.").removesuffix(".txt.gz")
        release.mkdir()
        (string_folder / name).rename(release / name)
    assert len(stringdb(checksum=checksums)) == 1
    assert sorted(p.name for p in cache.iterdir()) == sorted([LINKS, INFO])


def test_string_without_a_checksum_is_measured_at_the_first_fetch_and_held_to_it(
    string_folder, server, cache, monkeypatch, caplog
):
    url, folder = server
    monkeypatch.setattr(networks_module, "STRING_URL", url)
    for name in (LINKS, INFO):
        release = folder / name.removeprefix("9606.").removesuffix(".txt.gz")
        release.mkdir()
        (string_folder / name).rename(release / name)
    with caplog.at_level("INFO", logger="cellfuse"):
        assert len(stringdb()) == 1
    assert caplog.text.count("no checksum is published") == 2
    kept = cache / f"{INFO}.sha256"
    assert "sha256:" + kept.read_text().strip() == sha256(cache / INFO)
    assert len(stringdb()) == 1  # from the cache
    # The address gives another file than at first, and the cache was cleared of the file alone.
    (cache / INFO).unlink()
    packed(folder / "protein.info.v12.0" / INFO, STRING_INFO + "9606.X\tX\t1\tx\n")
    with pytest.raises(ValueError, match="no longer gives the file"):
        stringdb()


def test_files_of_two_species_are_refused(string_folder):
    packed(string_folder / INFO, STRING_INFO.replace("9606.", "10090."))
    with pytest.raises(ValueError, match="no protein of .* are both of one species"):
        stringdb(path=string_folder)


@pytest.mark.parametrize("read", [reactome, humap])
@pytest.mark.parametrize("header", ["source,target", "entity1,entity2"])
def test_pairs_are_read_once_each(tmp_path, read, header):
    own = tmp_path / "pairs.csv"
    own.write_text(f"{header}\nB,A\nA,B\nC,C\nA,NAN\nA,B\n,B\n")
    assert read(path=own).to_dict("list") == {"source": ["A", "A"], "target": ["B", "NAN"]}


def test_reactome_is_fetched_and_read(server, cache, monkeypatch):
    url, folder = server
    (folder / "Reactome.txt").write_text("entity1,entity2\nA,B\n")
    here = Remote("Reactome.txt", f"{url}/Reactome.txt", "CC0", sha256(folder / "Reactome.txt"))
    monkeypatch.setattr(networks_module, "REACTOME", here)
    assert len(reactome()) == 1


def test_a_table_of_pairs_without_scores_has_none_to_ask_for(tmp_path):
    own = tmp_path / "pairs.csv"
    own.write_text("source,target\nA,B\n")
    with pytest.raises(ValueError, match="lists pairs without a score.*score=None"):
        stringdb(path=own)
    assert len(stringdb(path=own, score=None)) == 1
    own.write_text("source,target,score\nA,B,0.97\nB,A,0.99\nA,C,0.2\n")
    assert stringdb(path=own)["score"].tolist() == [0.99]
    own.write_text("gene,partner\nA,B\n")
    with pytest.raises(ValueError, match="no table of pairs: it lacks 'source', 'target'"):
        reactome(path=own)


@pytest.mark.skipif(not (DATA / "networks").exists(), reason="../shared/data/networks")
@pytest.mark.parametrize(
    ("read", "name", "n_rows"),
    [
        (partial(stringdb, score=None), "StringDB", 116_118),
        (humap, "HuMAP", 117_076),
        (reactome, "Reactome", 22_865),
    ],
)
def test_the_networks_of_efaar(read, name, n_rows):
    path = DATA / "networks" / f"{name}.csv.gz"
    listed = pd.read_csv(path)
    assert len(listed) == n_rows
    pairs = read(path=path)
    expected = {frozenset(p) for p in listed.itertuples(index=False, name=None)}
    assert {frozenset(p) for p in pairs.itertuples(index=False, name=None)} == {
        p for p in expected if len(p) == 2
    }
    assert len(pairs) == sum(len(p) == 2 for p in expected)
    known = {"HuMAP": networks_module.HUMAP, "Reactome": networks_module.REACTOME}.get(name)
    if known is not None:  # the same pairs under EFAAR's header are the file that is fetched
        body = gzip.decompress(path.read_bytes()).split(b"\n", 1)[1]
        digest = hashlib.sha256(b"entity1,entity2\n" + body).hexdigest()
        assert known.checksum == f"sha256:{digest}"


def lines(rows: list) -> str:
    return "\n".join("\t".join(row) for row in rows)


def test_complexes_become_pairs_of_their_subunits(tmp_path):
    rows = [
        ("1", "A and B", "Human", "A;B;None"),
        ("2", '"three"', "Human", "B;C;A"),
        ("3", "of mice", "Mouse", "X;Y"),
        ("4", "alone", "Human", "Z"),
    ]
    for kind, genes in (("Organism", "subunits(Gene name)"), ("organism", "subunits_gene_name")):
        text = "\n".join(
            ["\t".join(("ComplexID", "ComplexName", kind, genes)), *map("\t".join, rows)]
        )
        own = packed(tmp_path / "allComplexes.txt.gz", text)
        assert corum(path=own).to_numpy().tolist() == [["A", "B"], ["A", "C"], ["B", "C"]]
        assert corum(path=own, organism="mouse").to_numpy().tolist() == [["X", "Y"]]
        with pytest.raises(
            ValueError, match="no complex of 'Rat'; its organisms are 'Human', 'Mouse'"
        ):
            corum(path=own, organism="Rat")


def test_signor_gives_pairs_of_proteins(tmp_path):
    names = ["ENTITYA", "TYPEA", "IDA", "ENTITYB", "TYPEB", "SENTENCE", "SCORE"]
    rows = [
        ("NA", "protein", "P1", "MDM2", "protein", 'says "so', "0.9"),
        ("MDM2", "protein", "P2", "NA", "protein", "", "0.1"),
        ("drug", "smallmolecule", "C1", "MDM2", "protein", "", "0.1"),
    ]
    own = tmp_path / "all_data.tsv"
    own.write_text(lines([names, *rows]))
    assert signor(path=own).to_numpy().tolist() == [["MDM2", "NA"]]
    broken = '"one\nsentence"'
    own.write_text(
        "\n".join(["\t".join(names), "\t".join(("A", "protein", "", "B", "protein", broken, "1"))])
    )
    assert signor(path=own).to_numpy().tolist() == [["A", "B"]]
    own.write_text(lines(rows))
    with pytest.raises(ValueError, match="all_data.tsv"):
        signor(path=own)


@pytest.mark.parametrize("read", [corum, signor])
def test_complexes_and_signalling_as_efaar_lists_them(tmp_path, read, cache):
    own = tmp_path / "pairs.csv"
    own.write_text("entity1,entity2\nB,A\nA,B\n")
    assert read(path=own).to_numpy().tolist() == [["A", "B"]]
    with pytest.raises(FileNotFoundError, match=r"no checksum.*EFAAR_benchmarking"):
        read()


def test_pathways_of_a_gmt(tmp_path):
    own = packed(tmp_path / "p.gmt.gz", "Apoptosis\tR-1\tTP53\tBAX\tTP53\t\n\nCycle\t\tNA\r\n")
    table = pathways(path=own)
    assert table.to_numpy().tolist() == [
        ["Apoptosis", "TP53", "R-1"],
        ["Apoptosis", "BAX", "R-1"],
        ["Cycle", "NA", ""],
    ]
    assert set(pathways(path=own, min_genes=2)["pathway"]) == {"Apoptosis"}
    for text, what in (
        ("x\ty\n", "line 1 .* is no pathway"),
        ("a\t\tA\na\t\tB", "'a' twice, in lines 1 and 2"),
    ):
        (tmp_path / "q.gmt").write_text(text)
        with pytest.raises(ValueError, match=what):
            pathways(path=tmp_path / "q.gmt")
    with pytest.raises(FileNotFoundError, match="change every few months.*ReactomePathways"):
        pathways()


# -- drugs ----------------------------------------------------------------------------------------

HUB = (
    "!Repurposing Hub\n!2020-03-24\n"
    "pert_iname\tclinical_phase\tmoa\ttarget\tdisease_area\tindication\n"
    "rolipram\tPhase 1\tPDE inhibitor\tPDE4A|PDE4B\t\t\n"
    "caf\xe9ine\tLaunched\tADORA antagonist\tADORA1\t\t\n"
    "water\tLaunched\t\t\t\t\n"
)


def test_drugs_of_the_hubs_own_table(tmp_path):
    own = tmp_path / "drugs.txt"
    own.write_bytes(HUB.encode("latin-1"))
    table = drug_targets(path=own)
    assert list(zip(table["drug"], table["target"], strict=True)) == [
        ("rolipram", "PDE4A"),
        ("rolipram", "PDE4B"),
        ("caf\xe9ine", "ADORA1"),
    ]
    assert list(table.columns[:4]) == ["drug", "target", "clinical_phase", "moa"]
    whole = drug_targets(path=own, targets_only=False)
    assert whole["drug"].tolist()[-1] == "water"
    assert whole["target"].isna().tolist() == [False, False, False, True]


def test_another_table_is_no_table_of_drugs(tmp_path):
    (tmp_path / "drugs.csv").write_text("name,target\na,B\n")
    with pytest.raises(ValueError, match="no table of drugs: it lacks 'pert_iname'"):
        drug_targets(path=tmp_path / "drugs.csv")


@pytest.mark.skipif(not (DATA / "drugs.csv.gz").exists(), reason="../shared/data/drugs.csv.gz")
def test_drugs_with_structures():
    table = drug_targets(path=DATA / "drugs.csv.gz")
    listed = pd.read_csv(DATA / "drugs.csv.gz")
    assert len(table) == listed["target"].dropna().str.count(r"\|").add(1).sum()
    assert {"drug", "target", "smiles", "InChIKey"} <= set(table.columns)
    assert drug_targets(path=DATA / "drugs.csv.gz", targets_only=False)["drug"].nunique() == 6798


# -- screens --------------------------------------------------------------------------------------


def counts(**columns: list[str]) -> ad.AnnData:
    n = len(next(iter(columns.values())))
    obs = pd.DataFrame(columns, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(np.ones((n, 2), "f4"), obs=obs)


def test_papalexi_in_both_of_its_forms(tmp_path):
    own = tmp_path / "cells.h5ad"
    counts(guide=["a", "b"], gene=["A", "B"]).write_h5ad(own)
    assert papalexi_eccite(path=own).obs["gene"].tolist() == ["A", "B"]
    counts(guide_id=["ATF2g1", "NTg4", "IFNGR1g12"], hto=["rep1-tx"] * 3).write_h5ad(own)
    cells = papalexi_eccite(path=own)
    assert cells.obs["guide"].tolist() == ["ATF2g1", "NTg4", "IFNGR1g12"]
    assert cells.obs["gene"].tolist() == ["ATF2", "non-targeting", "IFNGR1"]
    assert cells.obs["bio_rep"].tolist() == ["rep1"] * 3
    free = counts(guide_id=["ATF2g1", "NTg4", "x"])
    free.obs["guide_id"] = pd.Categorical([*free.obs["guide_id"][:2], None])
    free.write_h5ad(own)
    assert papalexi_eccite(path=own).obs[["guide", "gene"]].isna().to_numpy()[:, 1].tolist() == [
        False,
        False,
        True,
    ]
    counts(cell=["a", "b"]).write_h5ad(own)
    with pytest.raises(ValueError, match=r"neither 'guide' and 'gene' nor.*'cell'"):
        papalexi_eccite(path=own)


@pytest.mark.skipif(
    not (DATA / "papalexi_eccite.h5ad").exists(), reason="../shared/data/papalexi_eccite.h5ad"
)
def test_papalexi_itself():
    cells = papalexi_eccite(path=DATA / "papalexi_eccite.h5ad")
    assert cells.shape == (20_729, 299)
    assert cells.obs["gene"].nunique() == 26
    assert "non-targeting" in set(cells.obs["gene"])


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (lincs_pilot1, "no checksum.*cpg0003-rosetta.*LINCS-Pilot1.*replicate_level_l1k"),
        (scgenescope, r"CC BY-NC 4\.0.*huggingface\.co/datasets/altoslabs/scGeneScope"),
        (perturb_multi, "too large.*Saunders"),
    ],
)
def test_what_is_not_fetched_says_why_and_takes_a_path(read, text, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"is not fetched by this function.*{text}"):
        read()
    with pytest.raises(FileNotFoundError, match="absent"):
        read(path=tmp_path / "absent")


def test_lincs_pilot1_of_its_two_tables(tmp_path):
    packed(
        tmp_path / "CellPainting" / "replicate_level_cp_normalized_variable_selected.csv.gz",
        "PERT,Metadata_Well,Metadata_dose,Cells_Area\nDMSO,A01,0,1.5\nd1,A02,3.3,2.5\n",
    )
    packed(
        tmp_path / "L1000" / "replicate_level_l1k.csv.gz",
        "PERT,pert_well,200814_at\nd1,B02,0.5\n",
    )
    screen = lincs_pilot1(path=tmp_path)
    assert {m: a.shape for m, a in screen.mod.items()} == {"image": (2, 1), "rna": (1, 1)}
    assert screen["image"].obs["PERT"].tolist() == ["DMSO", "d1"]
    assert screen["rna"].var_names.tolist() == ["200814_at"]
    assert screen.obs_names.is_unique


def test_scgenescope_of_its_folder(tmp_path):
    for features in ("imaging/imagenet/vit-l", "rnaseq/scgpt"):
        for number in (1, 2):
            folder = tmp_path / "features" / features
            folder.mkdir(parents=True, exist_ok=True)
            cells = counts(
                Treatment=["CONTROL", "x"], Replicate=["3", "5"] if number == 1 else ["1", "2"]
            )
            cells.write_h5ad(folder / f"round_{number}.h5ad")
    screen = scgenescope(path=tmp_path)
    assert {m: a.n_obs for m, a in screen.mod.items()} == {"image": 4, "rna": 4}
    assert screen["rna"].obs["round"].tolist() == ["1", "1", "2", "2"]
    assert screen.obs_names.is_unique
    assert screen["image"].obs_names[0] == "image-1-c0"
    assert screen["image"].obs["sample"].tolist() == ["DMSO_3", "x_5", "DMSO_1", "x_2"]
    assert screen["rna"].obs["split"].tolist() == ["train", "val", "HE", "HE"]
    np.testing.assert_array_equal(screen["rna"].obsm["X_scgpt"], screen["rna"].X)
    with pytest.raises(FileNotFoundError, match=r"rnaseq/uce/round_1\.h5ad"):
        scgenescope(path=tmp_path, rna="rnaseq/uce")
    assert scgenescope(path=tmp_path, rounds=[2])["image"].n_obs == 2


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"Treatment": ["x"]}, "says no replicate of its cells: obs has 'Treatment'"),
        ({"Treatment": ["x"], "Replicate": ["7"]}, "has the replicates '7'; expected '1', '2'"),
    ],
)
def test_scgenescope_that_lacks_what_the_models_need_is_named(tmp_path, columns, text):
    folder = tmp_path / "features" / "imaging" / "imagenet" / "vit-l"
    folder.mkdir(parents=True)
    counts(**columns).write_h5ad(folder / "round_1.h5ad")
    with pytest.raises(ValueError, match=text):
        scgenescope(path=tmp_path, rounds=[1])


def small_scgenescope(folder: Path, n: int = 6) -> Path:
    """The data set's folder, small: three treatments, five replicates, `n` cells of each."""
    rng = np.random.default_rng(0)
    for features, width in (("imaging/imagenet/vit-l", 8), ("rnaseq/scgpt", 5)):
        for number, replicates in ((1, [3, 4, 5]), (2, [1, 2])):
            obs = pd.DataFrame(
                [(t, r) for t in ("CONTROL", "a", "b") for r in replicates for _ in range(n)],
                columns=["Treatment", "Replicate"],
            )
            obs.index = obs.index.astype(str)
            shift = obs["Treatment"].map({"CONTROL": 0, "a": 2, "b": -2}).to_numpy()[:, None]
            x = rng.normal(size=(len(obs), width)) + shift
            place = folder / "features" / features
            place.mkdir(parents=True, exist_ok=True)
            ad.AnnData(x.astype("f4"), obs=obs).write_h5ad(place / f"round_{number}.h5ad")
    return folder


def test_scgenescope_is_what_phenoseq_and_its_classifiers_take(tmp_path):
    import cellfuse as cf

    screen = scgenescope(path=small_scgenescope(tmp_path))
    cf.PhenoSeq.setup_mudata(screen, split_key="split")
    model = cf.PhenoSeq(screen, set_size=2, width=8, depth=1)
    model.train(max_epochs=1, enable_progress_bar=False)
    assert model.sample(n_steps=2).n_obs == 15
    table = cf.tl.classify_treatments(
        screen, "treatment", split_key="split", sample_key="sample", control="DMSO",
        setting="small", seeds=[0], max_epochs=2,
    )  # fmt: skip
    assert set(table["test"]) == {"WE", "HE"}


def test_perturb_multi_of_one_file(tmp_path):
    counts(guide=["a"]).write_h5ad(tmp_path / "cells.h5ad")
    assert perturb_multi(path=tmp_path / "cells.h5ad").n_obs == 1


def test_a_pair_at_the_cut_is_left_out_of_the_network_and_is_no_positive(string_folder):
    """The network's cut and the score's threshold draw the same line."""
    listed = stringdb(score=None, path=string_folder)
    assert (listed["score"] == 0.95).any()
    x = np.random.default_rng(0).normal(size=(8, 3))
    names = [*dict.fromkeys([*listed["source"], *listed["target"]])]
    genes = ad.AnnData(
        x, obs=pd.DataFrame(index=names + [f"other{i}" for i in range(len(x) - len(names))])
    )
    background = pd.DataFrame({"source": ["other0"], "target": ["other1"], "score": [0.5]})
    edges = pd.concat([listed, background], ignore_index=True)
    found = cf.tl.edge_classification(genes, edges, n_boot=0)
    assert (
        found.loc["all", "n_edges"]
        == len(stringdb(path=string_folder))
        == ((listed["score"] > 0.95).sum())
    )
