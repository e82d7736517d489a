"""The firewall of one daemon: keeps the table (``ruleset.py``) as networks and published ports want it."""

from __future__ import annotations

import contextlib
import errno
import logging
import threading
from collections.abc import Iterator, Sequence

from corten.errors import SystemFailure
from corten.linux import nftables as nft
from corten.linux import nftlist
from corten.linux.netlink import Connection, Message
from corten.network import neighbours
from corten.network.firewalld import Firewalld
from corten.network.plans import NetworkPlan
from corten.network.ruleset import CHAINS, SETS, USER, Opening, Redirect, network_elements, redirect_elements, skeleton

logger = logging.getLogger(__name__)


class Firewall:
    """The table of one daemon.  Methods may be called from any thread.

    It is made when the first bridge comes and deleted with the last; the administrator's rules outlive that.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        self._lock = threading.RLock()
        self._connection: Connection | None = None
        self._networks: dict[str, NetworkPlan] = {}
        self._redirects: dict[tuple[str, bytes], Redirect | Opening] = {}
        self._user_rules: list[nftlist.Rule] = []
        self._rule_counts: dict[str, int] = {}
        self._damaged = False
        self._told: set[nftlist.Chain] = set()
        self._held = False
        self._firewalld = Firewalld()

    @property
    def port(self) -> int:
        """The number under which the kernel tells of our own changes; 0 before the first."""
        with self._lock:
            return self._connection.port if self._connection is not None else 0

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Changes in the block come into the kernel together, at its end.  Errors: SystemFailure."""
        with self._lock:
            self._held = True
        try:
            yield
        finally:
            with self._lock:
                self._held = False
                if self._networks:
                    self._install()

    # -- changes ------------------------------------------------------------------------------------------------------

    def add_network(self, plan: NetworkPlan) -> None:
        """Let the packets of a bridge through, as far as its plan says.  Errors: SystemFailure."""
        with self._lock:
            if self._held:
                self._networks[plan.device] = plan
                return
            known = plan.device in self._networks
            first = not self._networks
            self._networks[plan.device] = plan
            try:
                if first or known:
                    self._install()
                else:
                    self._apply(network_elements(self.table, plan, add=True))
                    self._pass_others()
            except BaseException:
                if not known:
                    del self._networks[plan.device]
                raise

    def remove_network(self, device: str) -> None:
        """Errors: SystemFailure."""
        with self._lock:
            plan = self._networks.pop(device, None)
            if plan is None:
                return
            if not self._networks and not self._redirects:
                self.remove()
            else:
                self._apply(network_elements(self.table, plan, add=False))
                self._pass_others()

    def publish(self, redirects: Sequence[Redirect | Opening]) -> None:
        """All or none.  Errors: SystemFailure."""
        with self._lock:
            fresh = {(item.set_name, item.key): item for item in redirects}
            self._redirects.update(fresh)
            try:
                self._apply(redirect_elements(self.table, redirects, add=True))
            except BaseException:
                for key in fresh:
                    self._redirects.pop(key, None)
                raise

    def withdraw(self, redirects: Sequence[Redirect | Opening]) -> None:
        """Errors: SystemFailure; what was not published is no error."""
        with self._lock:
            gone = [item for item in redirects if self._redirects.pop((item.set_name, item.key), None) is not None]
            self._apply(redirect_elements(self.table, gone, add=False))

    # -- when others change it ----------------------------------------------------------------------------------------

    def damaged(self) -> None:
        """Somebody has changed what is ours: the next ``restore`` makes all of it again."""
        self._damaged = True

    def restore(self) -> bool:
        """Put back what of ours has gone, look at what others have changed beside; whether something had gone.

        Errors: SystemFailure.
        """
        with self._lock:
            if not self._networks or self._held:
                return False
            broken = self._damaged or not self._is_whole()
            if broken:
                logger.warning("somebody has changed the firewall table %s: it is put back", self.table)
                self._install()
            else:
                self._remember_user_rules()
                self._pass_others()
            return broken

    def exists(self) -> bool:
        with self._lock:
            try:
                return self.table in nftlist.tables(self._open())
            except OSError as error:
                raise _failure(error) from error

    def remove(self) -> None:
        """Delete the table, but for the administrator's rules.  Errors: SystemFailure."""
        with self._lock:
            networks, self._networks = self._networks, {}
            try:
                self._pass_others()
                if not self.exists():
                    return
                if not self._read_user_rules():
                    self._commit([nft.delete_table(self.table)])
                    return
                try:
                    self._commit(self._clearing(delete=True))
                except SystemFailure:
                    self._commit(self._clearing(delete=False))  # the rules look into our sets
            except OSError as error:
                raise _failure(error) from error
            finally:
                self._networks = networks

    def close(self) -> None:
        """Let go of the kernel; the rules stay."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- the kernel ---------------------------------------------------------------------------------------------------

    def _open(self) -> Connection:
        if self._connection is None:
            try:
                self._connection = nft.connect()
            except OSError as error:
                raise SystemFailure(
                    f"this kernel has no nf_tables: {error.strerror}", step="firewall", errno=error.errno or 0
                ) from error
        return self._connection

    def _commit(self, messages: Sequence[Message]) -> None:
        try:
            nft.commit(self._open(), messages)
        except OSError as error:
            raise _failure(error) from error

    def _apply(self, messages: Sequence[Message]) -> None:
        """A change of elements; a table that someone has deleted is made again, the change included."""
        if not messages or self._held:
            return
        try:
            self._commit(messages)
        except SystemFailure as error:
            if error.errno not in (errno.ENOENT, errno.EEXIST):
                raise
            self._install()

    def _install(self) -> None:
        """The whole table as it has to be, in one transaction; the administrator's rules stay or come back."""
        try:
            exists = self.exists()
            if exists:
                self._remember_user_rules()
            lost = [] if exists else self._user_rules
            fresh = skeleton(self.table)
            for plan in self._networks.values():
                fresh += network_elements(self.table, plan, add=True)
            fresh += redirect_elements(self.table, list(self._redirects.values()), add=True)
            try:
                self._commit([*self._clearing(delete=False), *fresh, *self._again(lost)])
            except SystemFailure:
                if lost:
                    logger.error("rules of chain %s %s could not be put back", self.table, USER)
                # sets of an earlier version may be of another kind
                self._commit([*self._clearing(delete=True), *fresh])
            self._damaged = False
            self._rule_counts = self._count_rules()
            self._pass_others()
        except OSError as error:
            raise _failure(error) from error

    def _clearing(self, *, delete: bool) -> list[Message]:
        """What empties our chains and sets, or deletes them."""
        if not self.exists():
            return []
        chains = self._own_chains()
        sets = [name for name in nftlist.sets(self._open(), self.table) if name in SETS]
        messages = [nft.flush_chain(self.table, chain) for chain in chains]
        if delete:
            messages += [nft.delete_set(self.table, name) for name in sets]
            messages += [nft.delete_chain(self.table, chain) for chain in chains]
        else:
            messages += [nft.flush_set(self.table, name) for name in sets]
        return messages

    def _own_chains(self) -> list[str]:
        known = nftlist.chains(self._open(), nft.INET)
        return [chain.name for chain in known if chain.table == self.table and chain.name in CHAINS]

    def _count_rules(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for rule in nftlist.rules(self._open(), self.table):
            if rule.chain in CHAINS:
                counts[rule.chain] = counts.get(rule.chain, 0) + 1
        return counts

    def _is_whole(self) -> bool:
        try:
            return (
                self.exists()
                and set(self._own_chains()) == set(CHAINS)
                and set(SETS) <= set(nftlist.sets(self._open(), self.table))
                and self._count_rules() == self._rule_counts
            )
        except OSError as error:
            raise _failure(error) from error

    # -- others' rules ------------------------------------------------------------------------------------------------

    def has_others(self) -> bool:
        """Whether somebody else has rules for packets that the host passes on."""
        with self._lock:
            try:
                known = nftlist.chains(self._open())
            except (OSError, SystemFailure):
                return False
            return neighbours.has_legacy() or any(
                chain.hook == nft.FORWARD and (chain.family, chain.table) != (nft.INET, self.table) for chain in known
            )

    def _read_user_rules(self) -> list[nftlist.Rule]:
        if not any(
            chain.table == self.table and chain.name == USER for chain in nftlist.chains(self._open(), nft.INET)
        ):
            return []
        return nftlist.rules(self._open(), self.table, USER)

    def _remember_user_rules(self) -> None:
        try:
            self._user_rules = self._read_user_rules()
        except OSError as error:
            logger.warning("rules of chain %s %s: %s", self.table, USER, error)

    def _again(self, rules: Sequence[nftlist.Rule]) -> list[Message]:
        return [nft.put_rule(self.table, USER, rule.content) for rule in rules]

    def _pass_others(self) -> None:
        """Let packets of our bridges through chains of others that drop what they do not know."""
        if self._held:
            return
        devices = sorted(self._networks)
        try:
            chains = nftlist.chains(self._open())
            dropping = neighbours.let_through(self._open(), chains, self.table, devices)
            self._firewalld.trust(chains, devices)
        except OSError as error:
            logger.warning("chains of other firewalls: %s", error)
            return
        for chain in dropping:
            if chain not in self._told and self._networks:
                self._told.add(chain)
                logger.warning(
                    "firewall chain %s %s drops what it does not know: accept there what containers are to send",
                    chain.table,
                    chain.name,
                )


def _failure(error: OSError) -> SystemFailure:
    return SystemFailure(error.strerror or str(error), step="firewall", errno=error.errno or 0)
