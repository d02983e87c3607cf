"""What benchmarks lack is said in a line, as commands do it."""

from commands import refuse, run


def test_a_folder_that_holds_files_is_not_overwritten(tmp_path):
    (tmp_path / "mine").write_text("")
    refuse("exists already", "benchmarks.tiny_llada", f"--out={tmp_path}")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_dataset_that_is_missing_is_named(tmp_path):
    refuse("no prepared dataset in data/demo_text", "benchmarks.data_input", cwd=tmp_path)


def test_a_folder_that_is_missing_is_named(tmp_path):
    refuse("there is no such folder", "benchmarks.convert_llada", f"--dir={tmp_path}/none")


def test_excerpts_that_are_missing_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv("FLEXMDM_DATA_DIR", raising=False)
    result = run("benchmarks.data_preparation", f"--tokenizer_dir={tmp_path}", cwd=tmp_path)
    assert "error: FLEXMDM_DATA_DIR does not name the folder" in result.stderr
    assert result.returncode == 2
