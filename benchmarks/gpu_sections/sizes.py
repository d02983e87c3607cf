"""How large what is measured is: as on one H100, or so small that a CPU runs the same code."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Attention:
    """Arrays that attention is timed on.

    Attributes:
      rows: Of the batch.
      length: Slots of a row.
      heads: Of queries, keys and values.
      head_size: Features of each.
    """

    rows: int
    length: int
    heads: int
    head_size: int

    def __str__(self) -> str:
        return f"{self.rows}×{self.length}×{self.heads}×{self.head_size}"


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The network whose step is compared on two devices; 64 features a head, or as many as it has.

    Attributes:
      hidden: Features.
      layers: Of it.
      rows: Of a batch.
      length: Slots of a row.
      layouts: Of rows: padded, packed or both.
    """

    hidden: int
    layers: int
    rows: int
    length: int
    layouts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Demo:
    """The training of configs/demo_text.py, cut short.

    Attributes:
      model: Fields of config.model that differ from the config's.
      rows: Of a batch.
      steps: In all.
      texts: That are sampled at its end.
    """

    model: Mapping[str, Any]
    rows: int
    steps: int
    texts: int


@dataclasses.dataclass(frozen=True)
class Training:
    """Trainings like that of configs/owt.py.

    Attributes:
      model: Fields of config.model that differ from the config's.
      vocabulary: Token ids.
      length: Slots of the longest sequence.
      rows: Of a padded batch.
      bucketed_rows: Of a batch of one bucket.
      buckets: Shorter lengths.
      packed: Fields of config.data and rows that a packed batch takes.
      packed_rows: Of a packed batch.
      sequences: Of the dataset.
      steps: To a turn.
      turns: Whose median is taken.
    """

    model: Mapping[str, Any]
    vocabulary: int
    length: int
    rows: int
    bucketed_rows: int
    buckets: tuple[int, ...]
    packed: Mapping[str, int]
    packed_rows: int
    sequences: int
    steps: int
    turns: int


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Texts that the engine writes, with the network of Training.

    Attributes:
      length: Slots of the longest buffer.
      rows: At a time.
      num: Texts.
      calls: Of the network, for each text.
    """

    length: int
    rows: int
    num: int
    calls: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """All of them.

    Attributes:
      needs_gpu: Whether a CPU would take hours.
      patience: A section is stopped after so many times the seconds that it should take.
      matrix: Rows and columns of the matrices of the product.
      copied: Bytes of the array that is copied.
      compared: Rows and slots of the batches whose attention is compared.
      timed: What attention is timed on.
      seconds: To spend on a measurement.
      agreement: Of the step on two devices.
      demo: Of the text demo's training.
      training: Of throughputs.
      sampling: Of samples.
    """

    needs_gpu: bool
    patience: float
    matrix: int
    copied: int
    compared: tuple[int, int]
    timed: tuple[Attention, ...]
    seconds: float
    agreement: Agreement
    demo: Demo
    training: Training
    sampling: Sampling


_TINY = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "condition_size": 8}

SIZES = {
    "full": Sizes(
        needs_gpu=True,
        patience=2.0,
        matrix=8192,
        copied=2 << 30,
        # No multiple of a kernel's tiles.
        compared=(6, 1000),
        timed=(Attention(64, 1024, 12, 64), Attention(8, 4096, 32, 128)),
        seconds=0.4,
        agreement=Agreement(256, layers=4, rows=8, length=256, layouts=("padded", "packed")),
        demo=Demo(model={}, rows=64, steps=400, texts=16),
        training=Training(
            model={},
            vocabulary=50_259,
            length=1024,
            rows=32,
            bucketed_rows=96,
            buckets=(64, 256),
            packed={},
            packed_rows=16,
            sequences=4096,
            steps=16,
            turns=5,
        ),
        sampling=Sampling(length=256, rows=256, num=256, calls=(64, 256)),
    ),
    "tiny": Sizes(
        needs_gpu=False,
        # Seconds are those of an H100.
        patience=20.0,
        matrix=128,
        copied=1 << 20,
        compared=(3, 40),
        timed=(Attention(2, 64, 2, 16),),
        seconds=0.01,
        agreement=Agreement(16, layers=1, rows=4, length=24, layouts=("padded",)),
        demo=Demo(model=_TINY, rows=8, steps=20, texts=4),
        training=Training(
            model=_TINY,
            vocabulary=40,
            length=32,
            rows=4,
            bucketed_rows=4,
            buckets=(16,),
            packed={"row_length": 40, "max_segments": 24},
            packed_rows=4,
            sequences=400,
            steps=2,
            turns=2,
        ),
        sampling=Sampling(length=32, rows=4, num=4, calls=(2, 4)),
    ),
}
