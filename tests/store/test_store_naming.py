from pathlib import Path

import h5py
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from store_support import make_capture, make_manifest
from vlmscope.errors import InputError
from vlmscope.schema import LONGEST_ID
from vlmscope.store import RunWriter, boundary_name, link_name, open_run, question_id
from vlmscope.store.format.naming import boundary_position

IDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1)
NASTY = st.text(st.sampled_from("%25FE_./a"), min_size=1, max_size=8)


@given(IDS | NASTY)
@example(".")
@example("..")
@example("%2F")
@example("%252F")
@example("_columns")
@example(".\n")
@example("100%")
def test_every_id_comes_back(id_: str) -> None:
    link = link_name(id_)
    assert question_id(link) == id_
    assert "/" not in link
    assert link != "."
    assert not link.startswith("_")


@given(NASTY)
def test_no_two_links_share_an_id(link: str) -> None:
    if "/" not in link and link != "." and not link.startswith("_"):
        escaped = link_name(question_id(link))
        assert question_id(escaped) == question_id(link)


@given(st.lists(IDS | NASTY, min_size=1, max_size=5, unique=True))
def test_hdf5_takes_every_link(ids: list[str]) -> None:
    with h5py.File("names", "w", driver="core", backing_store=False) as file:
        for id_ in ids:
            file.create_group(link_name(id_)).attrs["id"] = id_
        assert {question_id(link) for link in file} == set(ids)
        assert all(file[link_name(id_)].attrs["id"] == id_ for id_ in ids)


@pytest.mark.parametrize(
    "plain", ["question_comb_1732", "a b", "日本", "100%", "%2f", "..", "a.b_"]
)
def test_ordinary_ids_stay_as_they_are(plain: str) -> None:
    assert link_name(plain) == plain


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800"])
def test_ids_that_hdf5_cannot_name_are_refused(bad: str) -> None:
    with pytest.raises(InputError, match="question id"):
        link_name(bad)


@pytest.mark.parametrize("position", ["last_image_token", "last_prompt_token", "answer_mean"])
def test_boundary_names_come_back(position: str) -> None:
    assert boundary_position(boundary_name(position)) == position


@pytest.mark.parametrize("id_", ["x" * LONGEST_ID, "/" * LONGEST_ID, "€" * (LONGEST_ID // 3)])
def test_the_longest_id_can_be_opened_everywhere(id_: str, tmp_path: Path) -> None:
    with RunWriter(tmp_path, make_manifest()) as writer:
        with pytest.raises(InputError, match="HDF5 can name at most 16,000"):
            writer.add([make_capture(1, id_ + "xx")])
        writer.add([make_capture(2, id_)])
    assert open_run(tmp_path)[id_].answer == make_capture(2).answer
    with h5py.File(tmp_path / "index.h5") as index:
        assert index[link_name(id_)]["answer"].asstr()[()] == make_capture(2).answer
