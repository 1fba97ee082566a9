"""A client for the HTTP API of the head of a Ray cluster (Ray 2.60): jobs, their logs, nodes, and small stored values.

Ray's own client (`ray.job_submission`) needs all of `ray[default]`, 384 MB; a dozen kinds of request are enough here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import ssl
from base64 import b64encode
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlencode, urlsplit

from vllm_magic.cluster import entities
from vllm_magic.engine.client.exchange import Exchange, NoAnswerError, ask
from vllm_magic.errors import ClusterError, ClusterUnreachable, InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from vllm_magic.cluster.entities import Actor, Job, Node
    from vllm_magic.engine.client.exchange import HttpResponse

_T = TypeVar("_T")
AUTO_ADDRESS = "auto"
DASHBOARD = 8265
VERSION_PATH = "/api/version"
RESPONSE_LIMIT = 10.0  # seconds for a whole answer
LARGEST_RESPONSE = 64 * 2**20  # bytes of an answer: enough for 10,000 actors, or for `LOG_LINES` long lines
JSON = {"Content-Type": "application/json"}
LOG_SILENCE = 3600.0  # seconds without a new line, after which the log is requested again from its beginning
LOG_LINES = 1000  # lines from the end of a log that `tail` asks for
LOG_INTERVAL = 0.2  # seconds after which Ray reads a followed log again


class JobUnknownError(ClusterError):
    """The head of the cluster does not know the job."""


class Ray:
    """One cluster. Safe to use from any thread.

    Args:
        address: ``http://HEAD:8265``, ``HEAD:8265``, or "auto" for $RAY_ADDRESS.

    Raises:
        InvalidOption: the address is not valid, or it is "auto" and $RAY_ADDRESS is not set.
    """

    def __init__(self, address: str) -> None:
        self.address = shown(address)
        self._no_ray = f"The server at {self.address} is not the dashboard of a Ray cluster. The dashboard's default port is {DASHBOARD}."
        token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            place = urlsplit(resolved(address))
            fits = place.scheme in {"http", "https"} and place.hostname and place.port != 0
        except ValueError:
            fits = False
        if not fits:  # no details: the wrong part may belong to a password
            raise InvalidOption(
                f"{self.address} is not an address of a Ray cluster. Write http://HEAD:{DASHBOARD}."
            )
        self._url = f"{place.scheme}://{place.netloc}{place.path.rstrip('/')}"
        if place.username or place.password:
            user = f"{unquote(place.username or '')}:{unquote(place.password or '')}"
            self._headers = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}
        self._trust = _authorities() if place.scheme == "https" else None

    def version(self) -> str:
        """Return the version of Ray on the cluster."""
        answer = self._ask("GET", VERSION_PATH)
        if not isinstance(answer, dict) or "ray_version" not in answer:
            raise ClusterError(self._no_ray)
        return str(answer["ray_version"])

    def submit(self, job: str, entrypoint: str, **more: Any) -> None:
        """Submit a job with this id. ``more`` are other fields of Ray's ``JobSubmitRequest``."""
        self._ask("POST", "/api/jobs/", {"submission_id": job, "entrypoint": entrypoint, **more})

    def job(self, job: str) -> Job:
        """Return the state of a job.

        Raises:
            JobUnknownError: the head does not know the job. A head that was restarted has forgotten all jobs.
        """
        return self._read(entities.job, self._ask("GET", f"/api/jobs/{job}"))

    def jobs(self) -> list[Job]:
        """Return all submitted jobs of which the head has a record."""
        answers = self._read(list, self._ask("GET", "/api/jobs/"))
        jobs = [self._read(entities.job, answer) for answer in answers]
        return [job for job in jobs if job.id]  # a driver that was not submitted has no id

    def stop(self, job: str) -> None:
        """Stop a job: Ray sends SIGTERM to its processes, and SIGKILL after the time that was set when it was submitted."""
        self._ask("POST", f"/api/jobs/{job}/stop")

    def forget(self, job: str) -> None:
        """Remove the record of a job that is over. The head refuses this for a running job."""
        self._ask("DELETE", f"/api/jobs/{job}")

    def tail(self, job: str, node: str) -> list[str]:
        """Return the last lines that the job printed."""
        query = {"node_id": node, "filename": _log(job), "lines": str(LOG_LINES)}
        return self._send("GET", f"/api/v0/logs/file?{urlencode(query)}").text.split("\n")

    def follow(self, job: str, node: str) -> Iterator[bytes]:
        """Yield the output of the job from its beginning, in pieces, as it is printed."""
        query = {
            "node_id": node,
            "filename": _log(job),
            "lines": "-1",
            "interval": str(LOG_INTERVAL),
        }
        url = f"{self._url}/api/v0/logs/stream?{urlencode(query)}"
        with contextlib.suppress(NoAnswerError):
            exchange = Exchange("GET", url, RESPONSE_LIMIT, headers=self._headers, trust=self._trust)
            with contextlib.closing(exchange):
                if exchange.status == HTTPStatus.OK:
                    yield from exchange.pieces(LOG_SILENCE)

    def put(self, name: str, data: bytes) -> None:
        """Store a value under this name; it replaces an earlier one.

        The value is never read over HTTP: Ray deletes a value some minutes after it was read that way.
        """
        self._send("PUT", f"/api/packages/gcs/{name}", data)

    def nodes(self) -> list[Node]:
        """Return all nodes, including dead ones."""
        return [self._read(entities.node, answer) for answer in self._list("nodes")]

    def node(self, node: str) -> Node:
        """Return one node, by its id.

        Raises:
            ClusterError: the head does not know the node.
        """
        found = next((known for known in self.nodes() if known.id == node), None)
        if found is None:
            raise ClusterError(f"The Ray cluster at {self.address} does not know the node {node}.")
        return found

    def actors(self, ray_job: str) -> list[Actor]:
        """Return the actors of a job, including dead ones."""
        return [self._read(entities.actor, answer) for answer in self._list("actors", job_id=ray_job)]

    def living_actors(self) -> list[Actor]:
        """Return the living actors of all jobs, with the resources that they request."""
        answers = self._list("actors", detail=True, state="ALIVE")
        return [self._read(entities.actor, answer) for answer in answers]

    def placement_groups(self, ray_job: str) -> list[str]:
        """Return the ids of the placement groups of a job that have not been removed."""
        groups = self._list("placement_groups", creator_job_id=ray_job)
        return [str(group["placement_group_id"]) for group in groups if group["state"] != "REMOVED"]

    def _list(self, what: str, *, detail: bool = False, **filters: str) -> list[Mapping[str, Any]]:
        """Return the entities of this kind, such as "actors", whose fields have the values in ``filters``."""
        query: list[tuple[str, str]] = [("limit", "10000"), ("detail", str(int(detail)))]
        for key, value in filters.items():
            query += [("filter_keys", key), ("filter_predicates", "="), ("filter_values", value)]
        answer = self._ask("GET", f"/api/v0/{what}?{urlencode(query)}")
        try:
            listed: list[Mapping[str, Any]] = answer["data"]["result"]["result"]
        except (KeyError, TypeError):
            raise ClusterUnreachable(f"The Ray cluster at {self.address} does not list its {what}.") from None
        return listed

    def _read(self, parse: Callable[[Any], _T], answer: Any) -> _T:
        """Return what ``parse`` makes of an answer.

        Raises:
            ClusterUnreachable: the answer is not one of Ray's.
        """
        try:
            return parse(answer)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise ClusterUnreachable(self._no_ray) from None

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request, and return the JSON of the answer. Errors as for `_send`."""
        answer = self._send(method, path, b"" if body is None else json.dumps(body).encode(), JSON)
        try:
            return answer.json()
        except (ValueError, RecursionError):
            raise (ClusterError if path == VERSION_PATH else ClusterUnreachable)(self._no_ray) from None

    def _send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> HttpResponse:
        """Send a request, and return the answer.

        Raises:
            JobUnknownError: the head does not know the job in the path.
            ClusterUnreachable: there is no answer, or it reports an error of the head.
            ClusterError: the cluster refuses, or the server is not the dashboard of a Ray cluster.
        """
        try:
            answer = ask(
                method,
                self._url + path,
                RESPONSE_LIMIT,
                body=body,
                headers={**self._headers, **(headers or {})},
                most=LARGEST_RESPONSE,
                trust=self._trust,
            )
        except NoAnswerError as error:
            raise ClusterUnreachable(
                f"The Ray cluster at {self.address} does not answer: {error}. Check the address and the network."
            ) from error
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            raise ClusterError(
                f"The Ray cluster at {self.address} asks for a token, or refuses the token that was sent. Set RAY_AUTH_TOKEN."
            )
        if answer.status == HTTPStatus.NOT_FOUND and path == VERSION_PATH:
            raise ClusterError(self._no_ray)
        if answer.status == HTTPStatus.NOT_FOUND and path.startswith("/api/jobs/"):
            raise JobUnknownError(f"The Ray cluster at {self.address} does not know the job any more.")
        if not answer.ok:
            refused = (
                ClusterUnreachable if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR else ClusterError
            )
            *_, last = answer.text.strip().splitlines() or [""]  # the last line of a traceback
            raise refused(
                f"The Ray cluster at {self.address} refused {method} {path}: {last[:300] or answer.status}"
            )
        return answer


def resolved(address: str) -> str:
    """Return the address as a URL.

    Raises:
        InvalidOption: the address is "auto", and $RAY_ADDRESS is not set or is no HTTP address.
    """
    if address == AUTO_ADDRESS:
        address = os.environ.get("RAY_ADDRESS", "")
        if not address.startswith("http"):
            raise InvalidOption(
                f"--cluster auto uses RAY_ADDRESS, which is not set to the address of the dashboard. "
                f"Set it, or write --cluster http://HEAD:{DASHBOARD}."
            )
    if "://" not in address:
        address = f"http://{address}"
    return address.rstrip("/")


def shown(address: str) -> str:
    """Return the address as a URL without user and password. Raises the errors of `resolved`."""
    return re.sub(r"//[^@/]*@", "//", resolved(address))


def _log(job: str) -> str:
    """Return the name of the file to which Ray writes a job's output, on the node of the job."""
    return f"job-driver-{job}.log"


def _authorities() -> ssl.SSLContext:
    """Return a TLS context that trusts the public certificate authorities and ignores the environment."""
    import certifi

    return ssl.create_default_context(cafile=certifi.where())
