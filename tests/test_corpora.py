"""Readers of corpora: published layouts made small, identities, official splits, what is missing, names."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from material import face_clip, write_video

from lipformer_core.data.corpora import CORPORA, list_sources, split_rule
from lipformer_core.data.corpora.splits import shared_persons
from lipformer_core.data.prepared.example import held_out_example
from lipformer_core.errors import ConfigError, DataError

ON_DISK = [name for name, entry in CORPORA.items() if entry.needs == "a folder"]
HIDDEN = [".hidden.mp4", "._a.mp4", ".Trash/a.mp4", ".Trash/0.png", ".0.jpg"]


@pytest.fixture(scope="module")
def settings(tiny_config):
    return tiny_config.data


def touch(folder, names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def by_split(sources):
    sources = list(sources)
    return {split: {s.person for s in sources if s.split == split} for split in ("train", "val", "test")}


def check(sources):
    """What holds for every corpus."""
    ids = [s.clip_id for s in sources]
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,80}", i) for i in ids)
    assert len({i.casefold() for i in ids}) == len(ids)
    assert all(s.split in ("train", "val", "test") for s in sources)
    assert all((s.path is None) == bool(s.missing) for s in sources)
    return {s.clip_id: s for s in sources}


# --- all corpora ----------------------------------------------------------------------------------
LAYOUTS = {
    "folder": [f"anna{p}/take {i}.mov" for p in range(6) for i in range(2)],
    "grid": [f"s{p}/bbaf{i}n.mpg" for p in range(1, 7) for i in range(2)],
    "hdtf": [f"WDA_Person{chr(65 + p)}{i}_000.mp4" for p in range(6) for i in range(2)],
    "lrs2": [f"mvlrs_v1/main/55354157{p}/0000{i}.mp4" for p in range(6) for i in range(2)],
    "voxceleb2": [f"dev/mp4/id0001{p}/21Uxsk56VDQ/0000{i}.mp4" for p in range(6) for i in range(2)],
    "mead": [f"M00{p}/video/front/angry/level_1/00{i}.mp4" for p in range(6) for i in range(2)],
    "ffhq": [f"images1024x1024/{n // 1000:02d}000/{n:05d}.png" for n in (0, 1, 59999, 60000, 64999, 65000, 69999)],
    "celebahq": [f"CelebA-HQ-img/{n}.jpg" for n in range(12)],
    "images": [f"anna{p}/{i}.jpg" for p in range(6) for i in range(2)],
}


@pytest.mark.parametrize("corpus", ON_DISK)
def test_every_layout_is_read_whole_in_a_fixed_order_without_hidden_files(corpus, tmp_path, settings):
    for place in ("here", "there"):
        for name in LAYOUTS[corpus][:: 1 if place == "here" else -1]:
            touch(tmp_path / place, [name])
        touch(tmp_path / place, HIDDEN)
    sources = list_sources(corpus, tmp_path / "here", settings)
    check(sources)
    assert sorted(s.path for s in sources) == sorted(str(tmp_path / "here" / name) for name in LAYOUTS[corpus])
    assert {s.still for s in sources} == {CORPORA[corpus].still}
    assert all(len(part) for part in by_split(sources).values()) and not shared_persons(sources)
    again = list_sources(corpus, str(tmp_path / "there"), settings)
    rows = [[(s.clip_id, s.person, s.split) for s in listed] for listed in (sources, again)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("corpus", ON_DISK)
def test_a_wrong_folder_is_an_error_that_says_what_was_expected(corpus, tmp_path, settings):
    expected = re.escape(CORPORA[corpus].source)
    (tmp_path / "empty").mkdir()
    touch(tmp_path / "texts", ["notes.txt", "a.csv"])
    for source in (None, tmp_path / "none", tmp_path / "empty", tmp_path / "texts"):
        with pytest.raises(DataError, match=f"(?s){corpus}.*{expected}"):
            list_sources(corpus, source, settings)


@pytest.mark.parametrize("corpus", ["lrs2", "voxceleb2", "mead", "ffhq", "celebahq"])
def test_files_outside_the_layout_are_reported(corpus, tmp_path, settings):
    where = {"lrs2": "mvlrs_v1/elsewhere", "ffhq": "images1024x1024/elsewhere"}.get(corpus, "elsewhere")
    touch(tmp_path, [*LAYOUTS[corpus], f"{where}/a.mp4", f"{where}/a.png"])
    sources = check(list_sources(corpus, tmp_path, settings))
    assert len([s for s in sources.values() if s.missing]) == 1
    with pytest.raises(DataError, match="1 not usable"):
        list_sources(corpus, tmp_path / where, settings)


def test_an_unknown_corpus_is_an_error_that_names_the_known(settings):
    with pytest.raises(DataError, match="nonsense.*hdtf.*celebahq"):
        list_sources("nonsense", None, settings)


def test_every_corpus_says_in_a_line_what_its_source_is():
    assert set(CORPORA) == {"synthetic", "list", "person", *LAYOUTS}
    assert all("\n" not in str(entry) and str(entry) for entry in CORPORA.values())


def test_synthetic_has_as_many_persons_a_split_as_the_settings_say(settings):
    sources = list_sources("synthetic", None, settings)
    assert Counter(s.split for s in sources) == {"train": 6, "val": 2, "test": 2}
    assert sources[6].synthetic == (6, 0, settings.synthetic.frames[1]) and not sources[6].path
    assert split_rule("synthetic", sources, settings) == "by person"


# --- names ----------------------------------------------------------------------------------------
def test_any_name_gives_a_safe_unique_id_that_does_not_depend_on_the_place(tmp_path, settings):
    names = ["a b.mp4", "a.b.mp4", "a_b.mov", "a_b.mp4", "A_B.mkv", "q.mp4", "Q.mov"]
    names += ["视频.mp4", "音频.mp4", "Zoë/x (1).mp4"]
    names += [f"{'very_long_folder_name/' * 6}clip{i}.mp4" for i in range(2)]
    for place in ("one", "two"):
        touch(tmp_path / place, names)
    one, two = (check(list_sources("folder", tmp_path / place, settings)) for place in ("one", "two"))
    assert list(one) == list(two) and len(one) == len(names)
    persons = {s.person for s in one.values()}
    assert {"Zoë", "视频", "very_long_folder_name"} <= persons and "Zoe_x__1_" in one


def test_a_plain_name_stays_as_it_is(tmp_path, settings):
    touch(tmp_path, ["s1/bbaf2n.mpg", "anna.take 1.mp4"])
    assert set(check(list_sources("folder", tmp_path, settings))) == {"s1_bbaf2n", "anna_take_1"}


def test_linked_folders_are_entered_once(tmp_path, settings):
    touch(tmp_path / "disk", ["anna/a.mp4"])
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "anna").symlink_to(tmp_path / "disk" / "anna")
    (tmp_path / "disk" / "anna" / "loop").symlink_to(tmp_path / "corpus")
    assert [s.clip_id for s in list_sources("folder", tmp_path / "corpus", settings)] == ["anna_a"]


# --- folder, grid ---------------------------------------------------------------------------------
def test_many_speakers_are_split_by_person(tmp_path, settings):
    touch(tmp_path, [f"s{p}/v {i}.mp4" for p in range(1, 9) for i in range(4)])
    sources = list_sources("folder", tmp_path, settings)
    persons = by_split(sources)
    assert len(persons["train"]) == 6 and len(persons["val"]) == len(persons["test"]) == 1
    assert split_rule("folder", sources, settings) == "by person"


def test_one_grid_speaker_holds_out_the_last_clips_by_name(tmp_path, settings):
    touch(tmp_path / "s1", [f"clip{i:03d}.mpg" for i in range(160)])
    sources = list_sources("grid", tmp_path / "s1", settings)
    assert {s.person for s in sources} == {"s1"}
    assert [s.clip_id for s in sources if s.split == "test"] == [f"clip{i:03d}" for i in range(130, 160)]
    assert [s.clip_id for s in sources if s.split == "val"] == [f"clip{i:03d}" for i in range(124, 130)]
    assert "by clip" in split_rule("grid", sources, settings)


def test_grid_as_on_zenodo_beside_its_other_archives(tmp_path, settings):
    touch(tmp_path, [f"s{p}/bbaf{i}n.mpg" for p in range(1, 7) for i in range(2)])
    touch(tmp_path, ["audio_25k/s1/bbaf0n.wav", "alignments/s1/bbaf0n.align", "s1/align/bbaf0n.align"])
    sources = check(list_sources("grid", tmp_path, settings))
    assert len(sources) == 12 and {s.person for s in sources.values()} == {f"s{p}" for p in range(1, 7)}


def test_grid_in_both_sizes_has_each_utterance_once(tmp_path, settings):
    touch(tmp_path, [f"s2/video/{size}/bbaf{i}n.mpg" for size in ("mpg_6000", "mpg_vcd") for i in range(3)])
    touch(tmp_path, ["s2/video/bbaf0n.mp4", "s3/bbaf0n.mpg"])
    sources = check(list_sources("grid", tmp_path, settings))
    usable = [s for s in sources.values() if not s.missing]
    assert [(s.person, s.path) for s in usable] == [
        *[("s2", str(tmp_path / f"s2/video/mpg_6000/bbaf{i}n.mpg")) for i in range(3)],
        ("s3", str(tmp_path / "s3/bbaf0n.mpg")),
    ]
    assert "mpg_6000/bbaf1n.mpg" in sources["s2_video_mpg_vcd_bbaf1n"].missing
    assert {s.person for s in list_sources("grid", tmp_path / "s2/video", settings)} == {"s2"}


# --- list -----------------------------------------------------------------------------------------
def write_list(path, *rows):
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def listed(tmp_path):
    """Folder with seven videos and a picture, of which a list may speak."""
    touch(tmp_path, [f"clips/{name}.mp4" for name in "abcdefg"] + ["faces/h.JPG", "speech/i.wav"])
    return tmp_path


def test_a_list_mixes_videos_and_pictures_and_reports_what_it_cannot_use(listed, settings):
    rows = ["note,person,file", "x,ann,clips/a.mp4", f"y,,{listed}/clips/b.mp4", "z,ann,faces/h.JPG"]
    rows += [",,speech/i.wav", ",ben,clips/gone.mp4", ",,", ",ann,clips/a.mp4"]
    sources = check(list_sources("list", write_list(listed / "all.csv", *rows), settings))
    assert len(sources) == len(rows) - 1
    usable = {name: (s.person, s.path, s.still) for name, s in sources.items() if not s.missing}
    assert usable == {
        "clips_a_000": ("ann", str(listed / "clips/a.mp4"), False),
        "clips_b": ("b", str(listed / "clips/b.mp4"), False),
        "faces_h": ("ann", str(listed / "faces/h.JPG"), True),
    }
    missing = {name: s.missing for name, s in sources.items() if s.missing}
    assert "neither a video nor a picture" in missing.pop("speech_i_wav")
    assert "no such file" in missing.pop("clips_gone_mp4") and "more than once" in missing.pop("clips_a_001")
    assert ["no file named" in reason for reason in missing.values()] == [True]


def test_a_list_lies_anywhere_and_its_order_of_rows_does_not_matter(listed, tmp_path_factory, settings, monkeypatch):
    names = [f"clips/{name}.mp4" for name in "abcdefg"]
    one = list_sources("list", write_list(listed / "one.csv", "file", *names), settings)
    two = list_sources("list", write_list(listed / "two.csv", "file", *names[::-1]), settings)
    assert one == two and by_split(one) == {"train": set("abcde"), "val": {"f"}, "test": {"g"}}
    elsewhere = write_list(tmp_path_factory.mktemp("elsewhere") / "all.csv", "file", *(f"{listed}/{n}" for n in names))
    assert [s.path for s in list_sources("list", elsewhere, settings)] == [s.path for s in one]
    monkeypatch.chdir(listed)
    assert [s.clip_id for s in list_sources("list", "one.csv", settings)] == [s.clip_id for s in one]


def test_a_lists_splits_count_only_where_every_usable_row_has_one(listed, settings):
    rows = ["file,split", "clips/a.mp4,test", "clips/b.mp4,val", "clips/c.mp4,train", "faces/h.JPG,train", "none.mp4,"]
    path = write_list(listed / "all.csv", *rows)
    sources = list_sources("list", path, settings)
    assert by_split(sources) == {"train": {"c", "h", "none"}, "val": {"b"}, "test": {"a"}}
    assert split_rule("list", sources, settings) == "as the list says"
    write_list(path, *rows, "clips/d.mp4,clip")
    sources = list_sources("list", path, settings)
    assert by_split(s for s in sources if not s.missing) == {"train": {"a", "b", "c"}, "val": {"d"}, "test": {"h"}}
    assert split_rule("list", sources, settings) == "by person"


def test_a_list_gives_stretches_of_a_video(listed, settings):
    rows = ["file,start_s,end_s", "clips/a.mp4,1.5,4", "clips/a.mp4,,1", "clips/b.mp4,3,2", "clips/c.mp4,soon,"]
    sources = check(list_sources("list", write_list(listed / "all.csv", *rows), settings))
    stretches = {name: (s.start_s, s.end_s) for name, s in sources.items() if not s.missing}
    assert stretches == {"clips_a_000": (0, 1), "clips_a_001": (1.5, 4)}
    assert all("no stretch" in sources[f"clips_{name}_mp4"].missing for name in "bc")


def test_some_rows_of_a_list_may_be_taken(listed, settings):
    rows = ["file,corpus", "clips/a.mp4,GRID s1", "clips/b.mp4,talks", "clips/c.mp4,GRID s2"]
    path = write_list(listed / "all.csv", *rows)
    chosen = list_sources("list", path, replace(settings, list_rows="corpus=^GRID"))
    assert [s.person for s in chosen] == ["a", "c"]
    for where, said in (("corpus=[", "regular expression"), ("corpus", "COLUMN=PATTERN"), ("name=x", "file, corpus")):
        with pytest.raises(ConfigError, match=said):
            list_sources("list", path, replace(settings, list_rows=where))
    with pytest.raises(DataError, match="no row whose corpus"):
        list_sources("list", path, replace(settings, list_rows="corpus=LRS2"))


def test_a_list_may_lie_in_the_folder_that_it_lists(listed, settings):
    path = write_list(listed / "clips" / "all.csv", "file", "clips/a.mp4", "b.mp4")
    assert {s.path for s in list_sources("list", path, settings)} == {
        str(listed / "clips" / name) for name in ("a.mp4", "b.mp4")
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"path,person\na.mp4,x\n", "no column `file`.*path, person"), (b"", "no column `file`"), (b"file\n", "no files"),
     (b"\x00\xff\xfe\x80", "cannot be read as a CSV"), (b"file\ngone.mp4\n", "1 not usable.*gone.mp4")],
)  # fmt: skip
def test_what_is_no_list_is_an_error_that_says_so(content, said, tmp_path, settings):
    path = tmp_path / "list.csv"
    for source in (path, tmp_path, None):
        with pytest.raises(DataError, match="needs a CSV file.*column `file`"):
            list_sources("list", source, settings)
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"list.csv.*{said}"):
        list_sources("list", path, settings)


# --- persons named in the settings ----------------------------------------------------------------
@pytest.mark.parametrize("corpus", ["folder", "voxceleb2", "ffhq", "synthetic"])
def test_named_persons_are_held_out_whatever_the_corpus_says(corpus, tmp_path, settings):
    touch(tmp_path, LAYOUTS.get(corpus, []))
    before = list_sources(corpus, tmp_path, settings)
    first, second, *others = sorted({s.person for s in before})
    config = replace(settings, val_persons=(second,), test_persons=(first,))
    sources = list_sources(corpus, tmp_path, config)
    assert by_split(sources) == {"train": set(others), "val": {second}, "test": {first}}
    assert split_rule(corpus, sources, config) == "by person, named in the settings"
    config = replace(settings, test_persons=(first,))
    assert not by_split(list_sources(corpus, tmp_path, config))["val"]
    with pytest.raises(DataError, match=f"nobody is called zoe; there are {first}, {second}"):
        list_sources(corpus, tmp_path, replace(config, val_persons=("zoe",)))


# --- hdtf -----------------------------------------------------------------------------------------
# lines of the published files; WhipJimClyburn and JamesClyburn1 are one YouTube video
TIMES = """AmyKlobuchar0.mp4 00:10-04:30
AmyKlobuchar1.mp4 00:35-02:45 03:25-04:00 05:05-06:05 06:45-07:40
DeanPhillips.mp4 00:05-03:10
JamesClyburn1.mp4 00:05-04:40
LucilleRoybal-Allard.mp4 00:10-02:05
MazieHirono1.mp4 00:05-03:40
TedLieu.mp4 00:05-04:40
WhipJimClyburn.mp4 00:05-04:40
ZoeLofgren.mp4 00:05-03:10
"""
CROPS = """AmyKlobuchar0_0.mp4 399 497 0 497
AmyKlobuchar1_0.mp4 487 1005 0 1005
AmyKlobuchar1_1.mp4 521 1046 0 1046
AmyKlobuchar1_2.mp4 507 905 0 905
AmyKlobuchar1_3.mp4 519 1000 0 1000
JamesClyburn1_0.mp4 575 808 0 808
LucilleRoybal-Allard_0.mp4 591 806 37 806
MazieHirono1_0.mp4 83 1134 0 1134
TedLieu_0.mp4 515 773 0 773
WhipJimClyburn_0.mp4 583 791 0 791
ZoeLofgren_0.mp4 337 591 0 591
"""
HEIGHTS = """AmyKlobuchar0.mp4 720
AmyKlobuchar1.mp4 1080
JamesClyburn1.mp4 1080
LucilleRoybal-Allard.mp4 1080
MazieHirono1.mp4 720
TedLieu.mp4 1080
WhipJimClyburn.mp4 1080
ZoeLofgren.mp4 720
"""
URLS = """WhipJimClyburn https://www.youtube.com/watch?v=gh3YqnvNdio
JamesClyburn1 https://www.youtube.com/watch?v=gh3YqnvNdio&t=5s
TedLieu https://www.youtube.com/watch?v=eFAbqAtH9Gw
"""
RD_TIMES = """Radio11.mp4 00:30-01:00 01:30-02:30
Radio12.mp4 00:25-01:00
"""


@pytest.fixture
def hdtf(tmp_path):
    """The annotations and some empty videos."""
    lists = tmp_path / "HDTF_dataset"
    lists.mkdir()
    for name, text in {"annotion_time": TIMES, "crop_wh": CROPS, "resolution": HEIGHTS, "video_url": URLS}.items():
        (lists / f"WDA_{name}.txt").write_text(text)
    (lists / "RD_annotion_time.txt").write_text(RD_TIMES)
    names = ["AmyKlobuchar0", "AmyKlobuchar1", "JamesClyburn1", "LucilleRoybal-Allard", "WhipJimClyburn", "Radio11"]
    touch(tmp_path / "videos", [f"{name}.mp4" for name in names] + ["WDA_MazieHirono1.mp4", "DeanPhillips.mp4"])
    return tmp_path


def test_hdtf_annotations_give_ranges_crops_and_persons(hdtf, settings):
    sources = check(list_sources("hdtf", hdtf, settings))
    clip = sources["WDA_AmyKlobuchar1_001"]
    assert clip.path == str(hdtf / "videos/AmyKlobuchar1.mp4") and clip.person == "AmyKlobuchar"
    assert (clip.start_s, clip.end_s) == (205, 240)
    assert clip.crop == (521, 0, 521 + 1046, 1046)  # the file says left, width, top, height
    assert sources["WDA_LucilleRoybal-Allard_000"].crop == (591, 37, 591 + 806, 37 + 806)
    assert sources["WDA_AmyKlobuchar0_000"].person == "AmyKlobuchar"
    assert sources["WDA_WhipJimClyburn_000"].person == sources["WDA_JamesClyburn1_000"].person == "JamesClyburn"
    assert sources["RD_Radio11_001"].crop is None and sources["RD_Radio11_001"].end_s == 150
    assert sources["WDA_MazieHirono1_000"].path == str(hdtf / "videos/WDA_MazieHirono1.mp4")


def test_hdtf_rows_that_cannot_be_used_have_their_reason(hdtf, settings):
    times = hdtf / "HDTF_dataset/WDA_annotion_time.txt"
    times.write_text(times.read_text().replace("00:10-02:05", "02:10-02:05"))
    touch(hdtf / "videos", ["SomebodyElse.mp4"])
    sources = check(list_sources("hdtf", hdtf, settings))
    missing = {s.clip_id: s.missing for s in sources.values() if s.missing}
    assert set(missing) == {
        "RD_Radio12_000", "WDA_DeanPhillips_000", "WDA_LucilleRoybal-Allard_000", "WDA_TedLieu_000",
        "WDA_ZoeLofgren_000", "videos_SomebodyElse",
    }  # fmt: skip
    assert "no crop" in missing["WDA_DeanPhillips_000"] and "02:10-02:05" in missing["WDA_LucilleRoybal-Allard_000"]
    assert "TedLieu" in missing["WDA_TedLieu_000"] and "names it" in missing["videos_SomebodyElse"]


def test_hdtf_videos_that_name_nobody_are_in_training(hdtf, settings):
    touch(hdtf / "videos", ["TedLieu.mp4", "Radio12.mp4"])
    sources = list_sources("hdtf", hdtf, settings)
    persons = by_split(s for s in sources if not s.missing)
    assert {"Radio11", "Radio12"} <= persons["train"]
    assert persons["val"] == {"MazieHirono"} and persons["test"] == {"TedLieu"}
    assert "RD videos name nobody" in split_rule("hdtf", sources, settings)


def test_hdtf_crops_are_scaled_to_the_video_and_kept_only_where_they_fit(hdtf, settings):
    frames, _ = face_clip(3, height=90, width=160)
    for name in ("AmyKlobuchar1", "WDA_MazieHirono1"):
        write_video(hdtf / f"videos/{name}.mp4", frames)
    sources = check(list_sources("hdtf", hdtf, settings))
    np.testing.assert_allclose(
        sources["WDA_AmyKlobuchar1_000"].crop, np.array([487, 0, 487 + 1005, 1005]) / 12, atol=0.51
    )
    assert sources["WDA_MazieHirono1_000"].crop is None  # 1134 lines of a video of 720
    assert sources["WDA_MazieHirono1_000"].end_s == 220


def test_hdtf_odd_rows_as_published(tmp_path, settings):
    (tmp_path / "WRA_annotion_time.txt").write_text(
        "KevinMcCarthy1.mp4 00:22-00:45 01:05-01:20 \nMittRomney.mp4 08:10-08:30 00:33-08:53\n"
    )
    (tmp_path / "WRA_crop_wh.txt").write_text(
        "KevinMcCarthy1_0.mp4 412 465 0 465\nKevinMcCarthy1_1.mp4 421 459 14 459\nMittRomney_0.mp4 614 964 0 964\n"
    )
    (tmp_path / "WRA_resolution.txt").write_text("KevinMcCarthy1.mp4 0\nMittRomney.mp4 1080\n")
    frames, _ = face_clip(2, height=720, width=1280)
    for name in ("WRA_KevinMcCarthy1", "MittRomney"):
        write_video(tmp_path / f"{name}.mp4", frames)
    sources = check(list_sources("hdtf", tmp_path, settings))
    assert sources["WRA_KevinMcCarthy1_001"].crop == (421, 14, 421 + 459, 14 + 459)  # a height of 0: the video's own
    assert sources["WRA_MittRomney_000"].crop == (409, 0, 1052, 643) and sources["WRA_MittRomney_000"].start_s == 490
    assert "no crop" in sources["WRA_MittRomney_001"].missing and len(sources) == 4


def test_hdtf_already_cut_needs_no_annotations(tmp_path, settings):
    names = ["WDA_AmyKlobuchar0_000", "AmyKlobuchar1_0", "WRA_RandPaul2_001", "RD_Radio34_002", "RD_Radio3_000"]
    touch(tmp_path, [f"{name}.mp4" for name in names] + ["WDA_TedLieu/000.mp4"])
    sources = check(list_sources("hdtf", tmp_path, settings))
    assert [s.person for s in sources.values()] == [
        "AmyKlobuchar", "Radio34", "Radio3", "AmyKlobuchar", "TedLieu", "RandPaul"
    ]  # fmt: skip
    assert all(s.end_s is None and s.crop is None for s in sources.values())


def test_hdtf_cut_clips_stand_in_for_absent_videos(hdtf, settings):
    touch(hdtf, ["cut/WDA_TedLieu_000.mp4", "cut/ZoeLofgren_0.mp4"])
    sources = check(list_sources("hdtf", hdtf, settings))
    clip = sources["WDA_TedLieu_000"]
    assert clip.path == str(hdtf / "cut/WDA_TedLieu_000.mp4")
    assert (clip.start_s, clip.end_s, clip.crop) == (0, None, None)
    assert sources["WDA_ZoeLofgren_000"].path == str(hdtf / "cut/ZoeLofgren_0.mp4")


def test_hdtf_without_any_of_its_videos_is_an_error(hdtf, settings):
    for path in (hdtf / "videos").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="not usable.*neither.*HDTF_dataset"):
        list_sources("hdtf", hdtf, settings)


def test_hdtf_with_a_damaged_crop_file_is_an_error_that_names_the_row(hdtf, settings):
    (hdtf / "HDTF_dataset/WDA_crop_wh.txt").write_text("TedLieu_0.mp4 515 773\n")
    with pytest.raises(DataError, match="WDA_crop_wh.txt: 4 numbers.*TedLieu_0"):
        list_sources("hdtf", hdtf, settings)


# --- lrs2 -----------------------------------------------------------------------------------------
@pytest.fixture
def lrs2(tmp_path):
    """main/ of eight videos and pretrain/ of one of them, without lists."""
    touch(tmp_path, [f"mvlrs_v1/main/v{p}/0000{i}.{e}" for p in range(8) for i in range(3) for e in ("mp4", "txt")])
    touch(tmp_path, ["mvlrs_v1/pretrain/v0/00001.mp4", "mvlrs_v1/pretrain/v0/00001.txt"])
    return tmp_path


def write_lists(folder, **lists):
    for name, names in lists.items():
        (folder / f"{name}.txt").write_text("\n".join(names) + "\n")


@pytest.mark.parametrize("beside", ["mvlrs_v1", "."])
def test_lrs2_lists_give_the_official_splits(lrs2, settings, beside):
    write_lists(
        lrs2 / beside,
        train=[f"v{p}/0000{i}" for p in (7, 6, 5, 4) for i in range(3)],
        val=[f"v{p}/0000{i}" for p in (3, 2) for i in range(3)],
        test=["v1/00000 NF", "v1/00001 MV", "v1/00009 NF"],
        pretrain=["v0/00001", "v0/00002"],
    )
    for source in (lrs2, lrs2 / "mvlrs_v1") if beside != "." else (lrs2,):
        sources = list_sources("lrs2", source, settings)
        rows = check(sources)
        assert by_split(s for s in sources if not s.missing) == {
            "train": {"v0", "v4", "v5", "v6", "v7"}, "val": {"v2", "v3"}, "test": {"v1"}
        }  # fmt: skip
        missing = {name: row.missing for name, row in rows.items() if row.missing}
        unlisted = {f"main_v0_0000{i}" for i in range(3)} | {"main_v1_00002"}
        assert set(missing) == {"main_v1_00009", "pretrain_v0_00002"} | unlisted
        assert "test.txt lists it" in missing["main_v1_00009"] and "in none" in missing["main_v1_00002"]
        assert rows["main_v1_00009"].split == "test"
        assert split_rule("lrs2", sources, settings).startswith("official lists")


def test_lrs2_says_when_a_list_breaks_the_split_by_person(lrs2, settings):
    write_lists(lrs2, train=["v1/00000", "v2/00000", "v3/00000"], test=["v1/00001", "v2/00001", "v4/00000"])
    rule = split_rule("lrs2", list_sources("lrs2", lrs2, settings), settings)
    assert rule.endswith("2 persons are in several splits")


def test_lrs2_without_lists_is_split_by_video(lrs2, settings):
    sources = list_sources("lrs2", lrs2, settings)
    assert split_rule("lrs2", sources, settings) == "by person" and not shared_persons(sources)
    assert by_split(sources)["test"] == {"v7"} and len(sources) == 25


def test_lrs2_list_of_an_absent_part_is_one_row(lrs2, settings):
    (lrs2 / "mvlrs_v1/pretrain").rename(lrs2 / "elsewhere")
    write_lists(lrs2, train=["v1/00000"], pretrain=[f"v0/{i:05d}" for i in range(500)])
    missing = [s.missing for s in list_sources("lrs2", lrs2, settings) if s.clip_id.startswith("pretrain")]
    assert missing == ["pretrain.txt lists 500 clips; there is no pretrain/"]


# --- voxceleb2, mead ------------------------------------------------------------------------------
def test_voxceleb2_keeps_the_official_test_persons(tmp_path, settings):
    touch(tmp_path, [f"dev/mp4/id{p:05d}/21Uxsk56VDQ/0000{i}.mp4" for p in range(10, 30) for i in range(2)])
    touch(tmp_path, [f"test/mp4/id{p:05d}/7IBh-mGqYzg/00001.mp4" for p in (17, 18, 95)])
    for p in (17, 18):  # not in dev, as published
        for path in (tmp_path / f"dev/mp4/id{p:05d}").rglob("*.mp4"):
            path.unlink()
    touch(tmp_path, ["dev/aac/id00010/21Uxsk56VDQ/00001.m4a"])
    sources = list_sources("voxceleb2", tmp_path, settings)
    persons = by_split(sources)
    assert persons["test"] == {"id00017", "id00018", "id00095"} and persons["val"] == {"id00029"}
    assert not shared_persons(sources) and "official test" in split_rule("voxceleb2", sources, settings)
    clip = check(sources)["dev_mp4_id00010_21Uxsk56VDQ_00001"]
    assert clip.audio_path == str(tmp_path / "dev/aac/id00010/21Uxsk56VDQ/00001.m4a")
    assert check(sources)["dev_mp4_id00010_21Uxsk56VDQ_00000"].audio_path is None
    assert {s.split for s in list_sources("voxceleb2", tmp_path / "test", settings)} == {"test"}


def test_voxceleb2_says_when_a_person_is_in_dev_and_test(tmp_path, settings):
    touch(tmp_path, [f"dev/mp4/id0001{p}/21Uxsk56VDQ/00001.mp4" for p in range(6)])
    touch(tmp_path, ["test/mp4/id00010/7IBh-mGqYzg/00001.mp4"])
    assert "1 persons" in split_rule("voxceleb2", list_sources("voxceleb2", tmp_path, settings), settings)


@pytest.fixture
def mead(tmp_path):
    """Two actors, front and one other view; one sentence without sound, one sound without a sentence."""
    for actor in ("M003", "W009"):
        for i in (1, 2):
            touch(tmp_path, [f"{actor}/video/{view}/angry/level_2/00{i}.mp4" for view in ("front", "left_30")])
            touch(tmp_path, [f"{actor}/audio/angry/level_2/00{i}.m4a"])
    (tmp_path / "W009/audio/angry/level_2/001.m4a").unlink()
    touch(tmp_path, ["M003/audio/neutral/level_1/030.m4a", "W011/audio/neutral/level_1/030.m4a"])
    return tmp_path


def test_mead_has_the_front_views_with_their_separate_sound(mead, settings):
    sources = check(list_sources("mead", mead, settings))
    clip = sources["M003_video_front_angry_level_2_001"]
    assert clip.person == "M003" and clip.audio_path == str(mead / "M003/audio/angry/level_2/001.m4a")
    assert sources["W009_video_front_angry_level_2_001"].audio_path is None
    assert {i for i, s in sources.items() if s.missing} == {"M003_video_front_neutral_level_1_030"}
    assert len(sources) == 5


def test_mead_shows_another_view_where_its_folder_is_the_source(mead, settings):
    sources = list_sources("mead", mead / "M003/video/left_30", settings)
    assert [(s.clip_id, s.person) for s in sources] == [("angry_level_2_001", "M003"), ("angry_level_2_002", "M003")]
    assert sources[0].audio_path == str(mead / "M003/audio/angry/level_2/001.m4a")


def test_mead_may_lie_below_a_folder_called_video(mead, tmp_path_factory, settings):
    moved = tmp_path_factory.mktemp("disk") / "video" / "MEAD"
    moved.parent.mkdir()
    mead.rename(moved)
    assert len(list_sources("mead", moved, settings)) == 5


# --- pictures -------------------------------------------------------------------------------------
def test_ffhq_keeps_its_publishers_training_set(tmp_path, settings):
    touch(tmp_path, LAYOUTS["ffhq"])
    touch(tmp_path, ["thumbnails128x128/00000/00000.png", "in-the-wild-images/00000/00000.png"])
    sources = list_sources("ffhq", tmp_path, settings)
    numbers = {split: sorted(map(int, persons)) for split, persons in by_split(sources).items()}
    assert numbers == {"train": [0, 1, 59999], "val": [60000, 64999], "test": [65000, 69999]}
    assert "official" in split_rule("ffhq", sources, settings)
    flat = list_sources("ffhq", tmp_path / "thumbnails128x128", settings)
    assert [(s.person, s.split, s.still) for s in flat] == [("00000", "train", True)]


def test_ffhq_reports_what_has_no_number(tmp_path, settings):
    touch(tmp_path, ["00000.png", "70000.png", "teaser.png"])
    assert [s.missing is None for s in list_sources("ffhq", tmp_path, settings)] == [True, False, False]


MAPPING = "idx orig_idx         orig_file\n" + "".join(f"{n}    {n}   {n + 1:06d}.jpg\n" for n in range(12))
IDENTITY = "".join(f"{n + 1:06d}.jpg {2000 + n // 2}\n" for n in range(12))
PARTITION = "".join(f"{n + 1:06d}.jpg {0 if n > 3 else 1 if n > 1 else 2}\n" for n in range(12))


def test_celebahq_alone_is_split_by_image(tmp_path, settings):
    touch(tmp_path, [*LAYOUTS["celebahq"], "CelebAMask-HQ-mask-anno/0/00000_hair.png"])
    sources = list_sources("celebahq", tmp_path, settings)
    assert len(sources) == len({s.person for s in sources}) == 12
    assert split_rule("celebahq", sources, settings).startswith("by image")


def test_celebahq_takes_identities_and_the_partition_from_celebas_files(tmp_path, settings):
    touch(tmp_path, LAYOUTS["celebahq"])
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(MAPPING)
    (tmp_path / "identity_CelebA.txt").write_text(IDENTITY)
    sources = list_sources("celebahq", tmp_path, settings)
    assert check(sources)["CelebA-HQ-img_11"].person == "2005"
    assert split_rule("celebahq", sources, settings) == "by person" and not shared_persons(sources)
    (tmp_path / "list_eval_partition.txt").write_text(PARTITION)
    sources = list_sources("celebahq", tmp_path, settings)
    assert by_split(sources) == {"train": {"2002", "2003", "2004", "2005"}, "val": {"2001"}, "test": {"2000"}}
    assert "official" in split_rule("celebahq", sources, settings)


def test_celebahq_numbered_from_one_is_refused_with_the_mapping(tmp_path, settings):
    touch(tmp_path, [f"{n:05d}.jpg" for n in range(1, 13)])
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(MAPPING)
    with pytest.raises(DataError, match="00012.jpg.*counts from 0"):
        list_sources("celebahq", tmp_path, settings)


def test_celebahq_with_a_damaged_text_file_is_an_error_that_names_the_line(tmp_path, settings):
    touch(tmp_path, LAYOUTS["celebahq"])
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(MAPPING)
    (tmp_path / "identity_CelebA.txt").write_text(IDENTITY + "000013.jpg\n")
    with pytest.raises(DataError, match="identity_CelebA.txt: the line '000013.jpg'"):
        list_sources("celebahq", tmp_path, settings)


def test_flat_pictures_are_split_by_image_and_sub_folders_by_person(tmp_path, settings):
    touch(tmp_path, [f"{n}.JPG" for n in range(10)])
    sources = list_sources("images", tmp_path, settings)
    assert split_rule("images", sources, settings).startswith("by image") and all(s.still for s in sources)
    touch(tmp_path, [f"anna/{n}.webp" for n in range(3)])
    sources = list_sources("images", tmp_path, settings)
    assert split_rule("images", sources, settings) == "by person"
    assert {s.person for s in sources if "anna" in s.clip_id} == {"anna"}


# --- what uses them -------------------------------------------------------------------------------
def test_an_example_for_dubbing_is_a_whole_file_with_its_sound(mead, hdtf, tmp_path, settings):
    (mead / "W009/audio/angry/level_2/002.m4a").unlink()
    touch(mead, [f"X00{n}/{kind}/angry/level_1/001.{ending}" for n in range(4) for kind, ending in
                 (("video/front", "mp4"), ("audio", "m4a"))])  # fmt: skip
    example = held_out_example("mead", mead, settings, tmp_path)
    assert example.video == mead / "X003/video/front/angry/level_1/001.mp4"
    assert example.audio == mead / "X003/audio/angry/level_1/001.m4a"
    with pytest.raises(DataError, match="no whole file"):
        held_out_example("hdtf", hdtf, settings, tmp_path)


def test_the_development_clips(clips_folder, settings):
    sources = list_sources("folder", clips_folder, settings)
    check(sources)
    videos = [path.relative_to(clips_folder) for path in clips_folder.rglob("*.mp4")]
    persons = Counter(path.parts[0].removesuffix(".mp4") for path in videos)
    assert Counter(s.person for s in sources) == persons and len(sources) == len(videos) >= 194
    held_out = [len(by_split(sources)[split]) for split in ("val", "test")]
    assert min(held_out) == max(held_out) == len(persons) // 10
    assert not shared_persons(sources) and split_rule("folder", sources, settings) == "by person"


def test_the_development_list(clips_folder, settings):
    path = clips_folder.parent / "MEDIA.csv"
    if not path.is_file():
        pytest.skip(f"real material: no {path}")
    sources = list_sources("list", path, settings)
    check(sources)
    usable = [s for s in sources if not s.missing]
    videos = len([path for path in clips_folder.rglob("*.mp4")])
    portraits = len([path for path in (clips_folder.parent / "portraits").iterdir() if path.suffix != ".csv"])
    assert Counter(s.still for s in usable) == {False: videos, True: portraits}
    assert all(s.clip_id.startswith("speech") for s in sources if s.missing)


def test_the_development_portraits(clips_folder, settings):
    portraits = clips_folder.parent / "portraits"
    if not portraits.is_dir():
        pytest.skip(f"real material: no {portraits}")
    sources = list_sources("images", portraits, settings)
    assert len(check(sources)) == 51 and all(s.still for s in sources)
    assert split_rule("images", sources, settings).startswith("by image")
