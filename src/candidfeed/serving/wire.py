"""What the service reads and writes as JSON: checked when it comes, encoded once when it goes."""

from typing import Annotated, Any, Final, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationError,
)
from pydantic_core import to_json

from candidfeed.errors import DataError
from candidfeed.store.records import ID_BYTES, check_text

MOST_SLOTS: Final = 200
# Of a request's allow and deny lists, each; and of what a client tells of its user.
MOST_IDS: Final = 10_000
MOST_TOUCHED: Final = 1_000
Mode: TypeAlias = Literal["personal", "popular", "latest"]
_Model = TypeVar("_Model", bound=BaseModel)


def _id_text(came: object) -> object:
    """An id as the store keeps it: 42 and "42" are one."""
    if isinstance(came, int) and not isinstance(came, bool):
        return str(came)
    return came


def _as_kept(came: str) -> str:
    """An id that the store takes."""
    try:
        check_text("id", came)
    except DataError as error:
        raise ValueError(str(error).removeprefix("id: ")) from None
    return came


def _whole(came: object) -> object:
    """To JSON 20.0 is a whole number, and "20" none."""
    return int(came) if isinstance(came, float) and came.is_integer() else came


_IdText: TypeAlias = Annotated[str, Field(min_length=1, max_length=ID_BYTES, pattern=r"^[^\x00]+$")]
Id: TypeAlias = Annotated[_IdText, BeforeValidator(_id_text, json_schema_input_type=int | _IdText)]
# What is kept is counted in bytes; to look at each id of a long list would take milliseconds.
KeptId: TypeAlias = Annotated[Id, AfterValidator(_as_kept)]
Limit: TypeAlias = Annotated[int, Field(ge=1, le=MOST_SLOTS, strict=True), BeforeValidator(_whole)]
Seconds: TypeAlias = Annotated[
    float, Field(ge=-62e9, le=250e9, allow_inf_nan=False, description="Since 1970, UTC.")
]


class _Strict(BaseModel):
    # Of what is read, names are kept for the next request, and not the ids beside them.
    model_config = ConfigDict(extra="forbid", frozen=True, cache_strings="keys")


class Touched(_Strict):
    """One thing that the client knows its user did."""

    item_id: Id
    kind: Annotated[str, Field(min_length=1, max_length=64)]
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    time_s: Seconds | None = None


class Context(_Strict):
    """What is known of the moment."""

    time_s: Seconds | None = Field(
        default=None, description="For when it is asked; now if left out."
    )


class FeedRequest(_Strict):
    """For whom a feed is, and what it may hold."""

    user_id: KeptId | None = Field(
        default=None, description="Nobody in particular where it is null."
    )
    limit: Limit = Field(default=20, description="Slots; fewer where items run out.")
    surface: Annotated[str, Field(max_length=64)] = Field(
        default="home", description="Where it is shown."
    )
    mode: Mode = Field(
        default="personal",
        description="`popular`, `latest`: the same for all, less what the user blocked or muted.",
    )
    allow: Annotated[list[Id], Field(max_length=MOST_IDS)] | None = Field(
        default=None, description="The only items that may be shown."
    )
    deny: Annotated[list[Id], Field(max_length=MOST_IDS)] = Field(
        default=[], description="Items that may not be shown."
    )
    context: Context = Context(time_s=None)
    history: Annotated[list[Touched], Field(max_length=MOST_TOUCHED)] = Field(
        default=[],
        description="What the client knows of its user; read where the store can't be.",
    )
    debug: StrictBool = Field(
        default=False, description="Tell how many candidates came, and went, where."
    )


class Slot(_Strict):
    """One place of the slate."""

    position: int
    item_id: int | str
    kind: Literal["organic"]
    title: str
    score: float | None = Field(description="What the slate is ordered by; null if not finite.")
    source: str = Field(description="What proposed the item; `explore` where it was drawn.")
    reason: str
    propensity: float = Field(description="P(this item in this slot); 1 where nothing was drawn.")


class FeedAnswer(_Strict):
    """The ordered answer."""

    request_id: str = Field(description="Name it in the events that follow.")
    release_id: str
    mode: Mode
    degraded: list[str] = Field(description="Steps that were left out to answer in time.")
    slots: list[Slot]
    debug: dict[str, Any] | None = None


class EventsAnswer(_Strict):
    """What became of the events, once those that are accepted are on disk."""

    accepted: int
    duplicate: int = Field(description="Their event_id had come before; they count once.")
    rejected: int
    rejections: list["Rejection"]


class Rejection(_Strict):
    index: int = Field(description="Place in the batch, from 0.")
    event_id: str | None
    reason: str


class Problem(_Strict):
    code: str
    message: str = Field(description="What is wrong, what came, what to do.")


class ErrorAnswer(_Strict):
    error: Problem


class ItemFields(_Strict):
    """What is known of an item, by the names of the data set's columns."""

    fields: dict[str, Any] = {}


class UserFields(_Strict):
    """What is known of a user, by the names of the data set's columns."""

    fields: dict[str, Any] = {}


class Similar(_Strict):
    item_id: int | str
    title: str
    score: float = Field(description="Cosine of the two items' vectors.")


class SimilarAnswer(_Strict):
    release_id: str
    items: list[Similar]


class WhyAnswer(_Strict):
    """Why a slot was shown, as it was answered then."""

    request_id: str
    release_id: str
    position: int
    item_id: int | str
    score: float | None
    source: str
    reason: str
    heads: dict[str, float | None] = Field(description="What was predicted of it.")
    weights: dict[str, float] = Field(description="What each head counted in the score.")


class NewKey(_Strict):
    """An API key to be made."""

    name: KeptId
    scopes: Annotated[list[Literal["feed", "events", "admin", "metrics"]], Field(min_length=1)]
    expires_s: Seconds | None = None
    user_id: KeptId | None = Field(default=None, description="The only user that it may ask about.")


class KeyAnswer(_Strict):
    name: str
    key: str = Field(description="Shown this once; only a hash is kept.")


class KeyEntry(_Strict):
    name: str
    scopes: list[str]
    created_s: float
    expires_s: float | None
    user_id: str | None


class KeysAnswer(_Strict):
    keys: list[KeyEntry]


class Done(_Strict):
    """What was asked for is done, and on disk."""

    done: Literal[True] = True


class Erased(_Strict):
    """What an erasure found."""

    n_events: int
    n_slates: int
    is_scrubbed: bool = Field(description="Whether the bytes have left the files too.")


class Alive(_Strict):
    status: Literal["alive"] = "alive"


class Readiness(_Strict):
    is_ready: bool
    release_id: str | None
    store: str = Field(description="`ok`, or why it can't write.")


def parse(model: type[_Model], body: bytes) -> _Model:
    """
    Raises:
        WireError: with where it is wrong, what came and what was expected.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise WireError(_told(error)) from None


class WireError(Exception):
    """A request can't be understood."""


def encoded(answer: BaseModel | dict[str, Any]) -> bytes:
    """As JSON; what is not finite becomes null."""
    return to_json(answer, inf_nan_mode="null")


def _told(error: ValidationError) -> str:
    first, n = error.errors(include_url=False, include_context=False)[0], error.error_count()
    place = ".".join(map(str, first["loc"])) or "body"
    came = repr(first["input"])
    came = came if len(came) <= 80 else f"{came[:77]}..."
    more = f" (and {n - 1} more)" if n > 1 else ""
    return f"{place}: {_lower(first['msg'])}, came {came}{more}"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
