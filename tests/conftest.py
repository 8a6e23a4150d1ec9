"""Shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_lmt.data.train_tokenizer import train_tokenizer

REPOSITORY = Path(__file__).parent.parent

LINES = [
    "The committee of the whole house met on Thursday, and its members spoke for two hours about water and bread.",
    "The house by the river was sold; the members of the family spoke about it for a whole week.",
    "Der Ausschuss tagte am Donnerstag, und seine Mitglieder sprachen zwei Stunden über Wasser und Brot.",
    "Le comité s'est réuni jeudi, et ses membres ont parlé pendant deux heures de l'eau et du pain.",
    "Комитет собрался в четверг, и его члены два часа говорили о воде и хлебе.",
    "委员会星期四开会，成员们谈了两个小时的水和面包。委员会的成员星期四谈了水。",
    "委員会は木曜日に開かれ、委員たちは水とパンについて二時間話し合った。",
    "اجتمعت اللجنة يوم الخميس، وتحدث أعضاؤها ساعتين عن الماء والخبز.",
    "समिति की बैठक गुरुवार को हुई, और सदस्यों ने दो घंटे पानी और रोटी पर बात की।",
    "คณะกรรมการประชุมกันในวันพฤหัสบดี และพูดคุยเรื่องน้ำและขนมปังเป็นเวลาสองชั่วโมง",
    "위원회는 목요일에 모였고, 위원들은 두 시간 동안 물과 빵에 대해 이야기했다.",
]


@pytest.fixture(scope="session", autouse=True)
def one_thread_for_tokenizers():
    """Tests run side by side on few cores."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Folder with real text in 60 languages; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("MEGATRON_LMT_SAMPLE_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "mono").is_dir():
        pytest.skip(f"no sample data in {folder}: name its folder in MEGATRON_LMT_SAMPLE_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory) -> Path:
    """Folder of a byte-level BPE tokenizer of 512 tokens, with <|endoftext|>, <|im_start|> and <|im_end|> as the last."""
    folder = tmp_path_factory.mktemp("tokenizer")
    text = folder.with_name("tokenizer_text.txt")
    text.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    assert train_tokenizer([text], ["text"], 512, folder) == 512
    return folder
