"""Figures of `methods/attribution.py`."""

import numpy as np
import plotly.graph_objects as go

from probe.figures._maps import head_map
from probe.figures._theme import ThemeName, find_theme, themed, token_label
from probe.methods.attribution import LogitAttribution


def attribution_bars(
    found: LogitAttribution, *, prompt: int | None = None, top: int = 20, theme: ThemeName = "light"
) -> go.Figure:
    """One bar per part, the largest at the top; right of zero raises the logit, left of it lowers.

    `prompt`: of this prompt. None: the mean over prompts, with its standard error where there are several. The parts
    that are not shown are summed in the last bar.
    """
    look = find_theme(theme)
    values = (found.mean if prompt is None else found.contributions[:, prompt]).tolist()
    errors = found.standard_error.nan_to_num().tolist() if prompt is None else [0.0] * len(values)
    order = sorted(range(len(values)), key=lambda index: -abs(values[index]))
    shown = order[:top]
    names = [found.parts[index].name for index in shown]
    lengths, spread = [values[index] for index in shown], [errors[index] for index in shown]
    if len(order) > top:
        names.append(f"{len(order) - top} others")
        lengths.append(sum(values[index] for index in order[top:]))
        spread.append(0.0)
    figure = go.Figure(
        go.Bar(
            x=lengths,
            y=list(range(len(names))),
            orientation="h",
            marker={"color": [look.raises if length >= 0 else look.lowers for length in lengths]},
            error_x={"type": "data", "array": spread, "visible": any(spread), "color": look.muted, "thickness": 1},
            text=[f"{length:+.2f}" for length in lengths],
            textposition="outside",
            cliponaxis=False,
            hovertext=names,
            hovertemplate="%{hovertext}<br>%{x:+.4f} logits<extra></extra>",
        )
    )
    themed(figure, look, title=_title(found, prompt), height=110 + 24 * len(names))
    reach = 1.25 * max(map(abs, lengths), default=1.0) or 1.0
    figure.update_xaxes(title_text="adds to the logit (logits; final norm frozen)", range=[-reach, reach])
    figure.add_vline(x=0, line={"color": look.muted, "width": 1})
    figure.update_yaxes(
        title_text="part (layer and head, or MLP)", tickmode="array", tickvals=list(range(len(names))), ticktext=names,
        range=[len(names) - 0.5, -0.5], showgrid=False,
    )  # fmt: skip
    return figure


def _title(found: LogitAttribution, prompt: int | None) -> str:
    """What is taken apart, and its size."""
    row = 0 if prompt is None else prompt
    several = prompt is None and len(set(found.tokens.tolist())) > 1
    name = "the chosen tokens" if several else f"'{token_label(found.texts[int(found.tokens[row])])}'"
    if found.against is not None and not several:
        name += f" above '{token_label(found.texts[int(found.against[row])])}'"
    logit = float(found.logit.mean() if prompt is None else found.logit[row])
    capped = " before the soft cap" if found.before_cap else ""
    return f"Who wrote {name}: the parts of {logit:+.2f} logits{capped}"


def attribution_map(found: LogitAttribution, *, prompt: int | None = None, theme: ThemeName = "light") -> go.Figure:
    """What every head and every MLP wrote towards the logit, layer by layer; blue raises, orange lowers.

    `prompt`: of this prompt. None: the mean over prompts.
    """
    look = find_theme(theme)
    values = found.mean if prompt is None else found.contributions[:, prompt]
    of_parts = [
        (part, value) for part, value in zip(found.parts, values.tolist(), strict=True) if part.layer is not None
    ]
    n_layers = 1 + max(part.layer or 0 for part, _ in of_parts)
    n_heads = 1 + max(part.head for part, _ in of_parts if part.head is not None)
    has_mlp = any(part.kind == "mlp" for part, _ in of_parts)
    table = np.zeros((n_layers, n_heads + has_mlp))
    for part, value in of_parts:
        if part.kind in ("head", "mlp"):
            table[part.layer, n_heads if part.head is None else part.head] = value
    columns = [*(str(head) for head in range(n_heads)), *(["MLP"] if has_mlp else [])]
    title = "Who wrote it: every head" + (" and MLP" if has_mlp else "")
    return head_map(
        table, look, title=title, unit="logits", signed=True, columns=columns, hover="%{z:+.4f} logits",
    )  # fmt: skip
