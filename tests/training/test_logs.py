import json

from resnet_keras.training.logs import Log


def _steps(path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def test_a_resumed_log_goes_on_where_the_checkpoint_stands(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    log = Log(path, step=0, total_steps=30)
    for step in (10, 20, 30):
        log.write("train", step, loss=1.5, error=0.25)
    log.close()
    with path.open("a") as file:
        file.write('{"kind": "train", "st')  # killed while writing
    resumed = Log(path, step=20, total_steps=30)
    resumed.write("train", 30, loss=1.25, error=0.125)
    resumed.close()
    assert _steps(path) == [10, 20, 30]
    assert json.loads(path.read_text().splitlines()[-1]) == {
        "kind": "train", "step": 30, "loss": 1.25, "error": 0.125,
    }  # fmt: skip
    assert "error 12.50 %" in capsys.readouterr().err


def test_a_new_run_starts_an_empty_log(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"kind": "train", "step": 10}\n')
    Log(path, step=0, total_steps=5).close()
    assert path.read_text() == ""
