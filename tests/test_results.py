"""What every result offers: its table and manifest in a folder."""

import json

import pandas
import pytest

from probe.errors import NotSaved
from probe.methods.distribution import next_tokens
from probe.methods.lens import logit_lens
from probe.recording import record
from tests.tiny import tiny_model

PROMPTS = [[1, 2, 3], [4, 5]]


def test_a_saved_result_is_its_table_and_what_is_needed_to_repeat_it(tmp_path):
    model = tiny_model()
    result = next_tokens(model, record(model, PROMPTS), prompt=1, top=3)
    result.save(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["SHA256SUMS", "manifest.json", "table.csv"]
    table = pandas.read_csv(tmp_path / "out" / "table.csv", keep_default_na=False)
    pandas.testing.assert_frame_equal(table, result.to_dataframe(), check_exact=True)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text("utf-8"))
    assert manifest["prompts"] == PROMPTS and manifest["method"] == "next tokens"
    assert manifest["method_arguments"] == {"prompt": 1, "position": 1, "top": 3}
    again = next_tokens(model, record(model, manifest["prompts"]), **manifest["method_arguments"])
    assert again.probabilities.tolist() == result.probabilities.tolist()


def test_a_folder_that_holds_something_is_not_written_into(tmp_path):
    model = tiny_model()
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(NotSaved, match="exists and is not empty"):
        logit_lens(model, record(model, PROMPTS)).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
