"""FlexMDM's and MDM's training in PyTorch, as a baseline for benchmarks.train_step.

Written after the paper, with what PyTorch offers for speed: scaled_dot_product_attention or, asked
for, flex_attention with a mask of blocks; a fused AdamW, torch.compile, bfloat16 by autocast on a
GPU. Rows are padded to the longest length and the head sees every slot, as is usual. Parameters
have the names of the paper's public code, so that conversion/flexmdm_torch.py reads them; the
schedules are linear.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import flex_attention
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flexmdm_jax.config import Config
from flexmdm_jax.schedules import LAST_TIME
from flexmdm_jax.types import Vocabulary

SINUSOID, ROTARY_BASE = 256, 10_000.0
# Of slots without a token to predict; cross_entropy passes over it.
NO_TARGET = -100
_SMALLEST_GAP = 1e-30


@dataclasses.dataclass(frozen=True)
class Corrupted:
    """x_t of a batch of rows, and what it takes to score a network on it.

    Attributes:
      tokens: x_t, closed up to the left [b, l].
      lengths: Slots of each row that hold a token [b].
      targets: The token behind each MASK, NO_TARGET elsewhere [b, l].
      gaps: Tokens of x₁ missing before each slot [b, l].
      alpha: What the network is told of the time [b].
      rates: What the terms of each row count, hazard times weight [b].
    """

    tokens: Tensor
    lengths: Tensor
    targets: Tensor
    gaps: Tensor
    alpha: Tensor
    rates: Tensor

    def to(self, device: str) -> "Corrupted":
        """Returns the same on a device."""
        fields = dataclasses.asdict(self)
        return Corrupted(**{name: x.to(device, non_blocking=True) for name, x in fields.items()})

    def pin_memory(self) -> "Corrupted":
        """Returns the same in memory that a GPU can fetch from; the DataLoader calls this."""
        return Corrupted(**{name: x.pin_memory() for name, x in dataclasses.asdict(self).items()})

    def counts(self) -> dict[str, int]:
        """Returns num_slots, num_pairs and num_masks, as the metrics of our step have them."""
        return {
            "num_slots": int(self.lengths.sum()),
            "num_pairs": int((self.lengths**2).sum()),
            "num_masks": int((self.targets != NO_TARGET).sum()),
        }


def stratified_times(num_rows: int, warp: float) -> tuple[Tensor, Tensor]:
    """Returns (times [b], one from each of b equal parts of [0, 1), warped; their weights [b])."""
    uniform = (torch.arange(num_rows) + torch.rand(num_rows)) / num_rows
    rest = 1 - uniform.clamp(max=LAST_TIME)
    return (1 - rest**warp).clamp(max=LAST_TIME), warp * rest ** (warp - 1)


def corrupt(
    tokens: Tensor,
    lengths: Tensor,
    t: Tensor,
    weights: Tensor,
    vocabulary: Vocabulary,
    *,
    mdm: bool,
) -> Corrupted:
    """Returns x_t at times t [b] (paper, eq. 6); END closes a sequence and is always there.

    For MDM every row is full, END is a token like any other and nothing is ever absent.
    """
    num_rows, length = tokens.shape
    slots = torch.arange(length)
    rates = weights / (1 - t)
    if mdm:
        masked = torch.rand(num_rows, length) > t[:, None]
        return Corrupted(
            tokens=tokens.masked_fill(masked, vocabulary.mask),
            lengths=torch.full((num_rows,), length),
            targets=tokens.masked_fill(~masked, NO_TARGET),
            gaps=torch.zeros(num_rows, length),
            alpha=torch.ones(num_rows),
            rates=rates,
        )
    time = t[:, None]
    inserted = torch.rand(num_rows, length)
    unmasked = inserted + (1 - inserted) * torch.rand(num_rows, length)
    end = slots == lengths[:, None] - 1
    real = slots < lengths[:, None]
    present = end | (real & (inserted < time))
    masked = present & ~end & (unmasked > time)
    # Present slots move to the left; the running count of absent ones becomes gaps.
    order = torch.argsort((~present).to(torch.uint8), dim=1, stable=True)
    kept = slots < present.sum(1, keepdim=True)
    missing = torch.cumsum(real & ~present, dim=1).gather(1, order)
    gaps = torch.diff(missing, dim=1, prepend=torch.zeros_like(missing[:, :1]))
    state = tokens.masked_fill(masked, vocabulary.mask).gather(1, order)
    targets = tokens.masked_fill(~masked, NO_TARGET).gather(1, order)
    return Corrupted(
        tokens=state.masked_fill(~kept, vocabulary.end),
        lengths=present.sum(1),
        targets=targets.masked_fill(~kept, NO_TARGET),
        gaps=gaps.masked_fill(~kept, 0).float(),
        alpha=t,
        rates=rates,
    )


def _zeros(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale[:, None]) + shift[:, None]


class TimeEmbedding(nn.Module):
    """Alpha [b] -> condition [b, c]."""

    def __init__(self, features: int):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(SINUSOID, features), nn.SiLU(), nn.Linear(features, features)
        )
        half = SINUSOID // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, alpha: Tensor) -> Tensor:
        angles = alpha[:, None] * self.frequencies
        return functional.silu(self.mlp(torch.cat([angles.cos(), angles.sin()], dim=-1)))


@dataclasses.dataclass(frozen=True)
class Attention:
    """A way to let slots see their own row's slots, padding left out.

    Attributes:
      mask: (lengths [b], slots of a row) -> what attend takes as its mask.
      attend: (q, k, v [b, h, l, d], mask) -> output [b, h, l, d].
    """

    mask: Callable[[Tensor, int], Any]
    attend: Callable[[Tensor, Tensor, Tensor, Any], Tensor]


def _key_mask(lengths: Tensor, length: int) -> Tensor:
    slots = torch.arange(length, device=lengths.device)
    return (slots < lengths[:, None])[:, None, None, :]


def _block_mask(lengths: Tensor, length: int) -> flex_attention.BlockMask:
    """Returns a mask by which flex_attention passes over tiles of nothing but padding."""
    rows = lengths.shape[0]

    def is_real(row, head, query, key):
        return key < lengths[row]

    return flex_attention.create_block_mask(
        is_real, rows, None, length, length, device=lengths.device
    )


ATTENTIONS = {
    "sdpa": Attention(
        _key_mask,
        lambda q, k, v, mask: functional.scaled_dot_product_attention(q, k, v, attn_mask=mask),
    ),
    "flex": Attention(
        _block_mask,
        lambda q, k, v, mask: flex_attention.flex_attention(q, k, v, block_mask=mask),
    ),
}


class Block(nn.Module):
    """Attention and MLP, each behind a modulated norm and a gate (adaLN-zero)."""

    def __init__(self, d: int, heads: int, condition: int, dropout: float, attention: Attention):
        super().__init__()
        self.heads, self.dropout, self.attention = heads, nn.Dropout(dropout), attention
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.attn_qkv = nn.Linear(d, 3 * d, bias=False)
        self.attn_out = nn.Linear(d, d, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d)
        )
        self.adaLN_modulation = _zeros(nn.Linear(condition, 6 * d))

    def forward(self, x, condition, cos, sin, mask) -> Tensor:
        modulation = self.adaLN_modulation(condition).chunk(6, dim=-1)
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = modulation
        y = self.attend(_modulated(self.norm1(x), shift, scale), cos, sin, mask)
        x = x + gate[:, None] * self.dropout(y)
        y = self.mlp(_modulated(self.norm2(x), mlp_shift, mlp_scale))
        return x + mlp_gate[:, None] * self.dropout(y)

    def attend(self, x, cos, sin, mask) -> Tensor:
        rows, length, d = x.shape
        qkv = self.attn_qkv(x).view(rows, length, 3, self.heads, d // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = (_rotated(y, cos, sin).to(v.dtype) for y in (q, k))
        y = self.attention.attend(q, k, v, mask)
        return self.attn_out(y.transpose(1, 2).reshape(rows, length, d))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class OutputLayer(nn.Module):
    """Features -> logits, with -inf for tokens that no MASK can hide."""

    def __init__(self, d: int, condition: int, size: int, impossible: list[int]):
        super().__init__()
        self.norm_final = nn.LayerNorm(d, bias=False)
        self.adaLN_modulation = _zeros(nn.Linear(condition, 2 * d))
        self.linear = _zeros(nn.Linear(d, size))
        forbidden = torch.zeros(size)
        forbidden[impossible] = -math.inf
        self.register_buffer("forbidden", forbidden, persistent=False)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN_modulation(condition).chunk(2, dim=-1)
        x = _modulated(self.norm_final(x), shift, scale)
        # Within the bias it costs no pass over the logits.
        return functional.linear(x, self.linear.weight, self.linear.bias + self.forbidden)


class InsertionHead(nn.Module):
    """Features -> expected gaps [b, l]."""

    def __init__(self, d: int, condition: int, max_length: int):
        super().__init__()
        self.norm = nn.LayerNorm(d, bias=False)
        self.adaLN = _zeros(nn.Linear(condition, 2 * d))
        self.proj1, self.proj2 = nn.Linear(d, d), nn.Linear(d, 1)
        self.scale = float(max_length)
        nn.init.constant_(self.proj2.bias, math.log(math.expm1(1 / max_length)))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        shift, scale = self.adaLN(condition).chunk(2, dim=-1)
        y = _modulated(self.norm(x), shift, scale)
        y = self.proj2(functional.gelu(self.proj1(y)))
        return functional.softplus(y[..., 0].float()) * self.scale


class DiT(nn.Module):
    """The paper's network: (tokens, alpha, lengths) -> (logits [b, l, v], gaps [b, l] or None)."""

    def __init__(self, config: Config, vocabulary: Vocabulary, attention: str = "sdpa"):
        super().__init__()
        self.attention = ATTENTIONS[attention]
        model, length = config.model, config.data.max_length
        d, condition = model.hidden_size, model.condition_size
        self.mdm = config.method == "mdm"
        self.vocab_embed = nn.ParameterDict({"embedding": torch.empty(vocabulary.size, d)})
        nn.init.uniform_(self.vocab_embed["embedding"], -(d**-0.5), d**-0.5)
        self.sigma_map = TimeEmbedding(condition)
        self.blocks = nn.ModuleList(
            Block(d, model.num_heads, condition, model.dropout_rate, self.attention)
            for _ in range(model.num_layers)
        )
        impossible = [vocabulary.mask] if self.mdm else [vocabulary.mask, vocabulary.end]
        self.output_layer = OutputLayer(d, condition, vocabulary.size, impossible)
        self.len_pred = None if self.mdm else InsertionHead(d, condition, length)
        half = d // model.num_heads // 2
        angles = torch.arange(length)[:, None] * ROTARY_BASE ** (-torch.arange(half) / half)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)
        self.register_buffer("slots", torch.arange(length), persistent=False)

    def forward(self, tokens: Tensor, alpha: Tensor, lengths: Tensor):
        x = functional.embedding(tokens, self.vocab_embed["embedding"])
        condition = self.sigma_map(alpha)
        # MDM's rows are full, and attention is faster without a mask.
        mask = None if self.mdm else self.attention.mask(lengths, tokens.shape[1])
        for block in self.blocks:
            x = block(x, condition, self.cos, self.sin, mask)
        gaps = None if self.mdm else self.len_pred(x, condition)
        return self.output_layer(x, condition), gaps


class Objective(nn.Module):
    """The loss of eq. 7 in nats of a batch, unmasking and insertion: a scalar each."""

    def __init__(self, model: DiT):
        super().__init__()
        self.model = model

    def forward(self, tokens, lengths, targets, gaps, alpha, rates) -> tuple[Tensor, Tensor]:
        logits, expected = self.model(tokens, alpha, lengths)
        nats = functional.cross_entropy(
            logits.flatten(0, 1).float(),
            targets.flatten(),
            ignore_index=NO_TARGET,
            reduction="none",
        )
        unmasking = (rates * nats.view(targets.shape).sum(1)).sum()
        if expected is None:
            return unmasking, torch.zeros_like(unmasking)
        expected = expected.clamp(min=_SMALLEST_GAP)
        divergence = expected - gaps * expected.log()
        real = self.model.slots < lengths[:, None]
        return unmasking, (rates * (divergence * real).sum(1)).sum()


class Batches(torch.utils.data.IterableDataset):
    """Corrupted batches without end, shuffled anew every epoch; sequences are kept in memory."""

    def __init__(self, config: Config, vocabulary: Vocabulary, sequences: list[np.ndarray]):
        super().__init__()
        self._sequences = [torch.from_numpy(x.astype(np.int64)) for x in sequences]
        self._size, self._length = config.training.batch_size, config.data.max_length
        self._mdm, self._warp = config.method == "mdm", config.training.time_warp
        self._vocabulary = vocabulary

    def _examples(self) -> Iterator[Tensor]:
        while True:
            for number in torch.randperm(len(self._sequences)).tolist():
                yield self._sequences[number]

    def __iter__(self) -> Iterator[Corrupted]:
        examples = self._examples()
        while True:
            rows = [next(examples) for _ in range(self._size)]
            tokens = torch.full((self._size, self._length), self._vocabulary.end)
            for row, sequence in zip(tokens, rows, strict=True):
                row[: len(sequence)] = sequence
            lengths = torch.tensor([len(row) for row in rows])
            t, weights = stratified_times(self._size, self._warp)
            yield corrupt(tokens, lengths, t, weights, self._vocabulary, mdm=self._mdm)


def _optimizer(model: nn.Module, config: Config) -> torch.optim.Optimizer:
    """Returns AdamW; matrices decay, vectors do not."""
    kind = config.optimizer
    matrices = [x for x in model.parameters() if x.ndim >= 2]
    vectors = [x for x in model.parameters() if x.ndim < 2]
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": kind.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=kind.learning_rate,
        betas=(kind.b1, kind.b2),
        fused=True,
    )


class Training:
    """A run: each step takes the next batch and changes the parameters and their average."""

    def __init__(
        self,
        config: Config,
        vocabulary: Vocabulary,
        sequences: list[np.ndarray],
        mean_length: float,
        *,
        device: str,
        compiled: bool,
        attention: str = "sdpa",
    ):
        """Starts from random parameters.

        Args:
          config: The experiment, with linear schedules.
          vocabulary: Of the data.
          sequences: Token ids, END included.
          mean_length: Tokens of a sequence on average, END not counted.
          device: cpu or cuda.
          compiled: Through torch.compile, not eager.
          attention: A name in ATTENTIONS.
        """
        torch.manual_seed(config.seed)
        self.model = DiT(config, vocabulary, attention).to(device).train()
        objective = Objective(self.model)
        self._objective = torch.compile(objective) if compiled else objective
        self._optimizer = _optimizer(self.model, config)
        self._warm_up = torch.optim.lr_scheduler.LinearLR(
            self._optimizer, 1e-3, total_iters=max(config.optimizer.warmup_steps, 1)
        )
        average = get_ema_multi_avg_fn(config.optimizer.ema_decay)
        self._ema = AveragedModel(self.model, multi_avg_fn=average)
        self._clip = config.optimizer.clip_norm
        self._expected_tokens = config.training.batch_size * mean_length
        self._device, on_gpu = device, device == "cuda"
        batches = torch.utils.data.DataLoader(
            Batches(config, vocabulary, sequences),
            batch_size=None,
            # On a CPU, the step would lend its own cores to workers.
            num_workers=2 if on_gpu else 0,
            pin_memory=on_gpu,
        )
        self._batches = iter(batches)

    def step(self) -> tuple[Tensor, Corrupted]:
        """Returns (the loss in nats per token of x₁, the batch it was computed on, on the host)."""
        host = next(self._batches)
        batch = host.to(self._device)
        fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
        with torch.autocast(self._device, torch.bfloat16, enabled=self._device == "cuda"):
            unmasking, insertion = self._objective(**fields)
            loss = (unmasking + insertion) / self._expected_tokens
        self._optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self._clip)
        self._optimizer.step()
        self._warm_up.step()
        self._ema.update_parameters(self.model)
        return loss.detach(), host
