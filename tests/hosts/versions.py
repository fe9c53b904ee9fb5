"""The differences between MySQL's versions that the tests see: one table, a row a difference.

    expect = Expect((8, 0, 27))
    expect.persist              # True
    expect.failing              # (3188, 3202)

A value holds from its version on.  Each `make test` checks the values of 9.7.  The tests of servers
passed with 5.7.22 and 8.0.27, too.  The values of 8.4.3 were measured by hand or read in the
sources; what 9.7 does and 8.0.27 does not is taken to hold from 8.4 on if that is not known.
pytest.mark.needs("row") skips a test if that row is false for the server.
"""

from typing import NamedTuple

Version = tuple[int, ...]
OLDEST = (5, 7, 12)                     # the first with InnoDB's master key in a keyring plugin


class Row(NamedTuple):
    what: str
    values: tuple[tuple[Version, object], ...]      # (since, value), the oldest first


def since(version: Version, what: str) -> Row:
    """A thing that earlier servers do not have."""
    return Row(what, (((5, 7), False), (version, True)))


TABLE = {
    # -- keyring_udf
    "failing": Row("the errors by which keyring_udf says that the keyring failed; none: NULL",
                   (((5, 7), (3188, 3202)), ((9, 0), ()))),
    "type_letters": Row("of a key's type keyring_key_type_fetch() tells so many, in 5.7 as bytes",
                        (((5, 7), 3), ((8, 0), 128))),
    "key_bytes": Row("the longest key that keyring_udf takes", (((5, 7), 2048),
                                                                ((8, 0, 18), 16384))),
    # -- plugins and variables
    "hides": since((8, 0), "hidden variables of plugins"),
    "persist": since((8, 0), "SET PERSIST"),
    "persist_meets_install": since((8, 4), "an INSTALL PLUGIN that applies what was persisted"
                                   " before the server started"),
    "drops_persisted": since((8, 4), "a server that goes on without a persisted value that is"
                             " refused, at its start and in INSTALL PLUGIN"),
    "busy": Row("the errors of an UNINSTALL of a keyring plugin that is in use; none: it is done"
                " later", (((5, 7), ()), ((8, 0), (1883,)), ((8, 4), ()))),
    "set_meets_uninstall": since((8, 4), "a server that survives a SET GLOBAL during an UNINSTALL"),
    "name_meets_install": since((8, 4), "a server that survives it if a variable of a plugin is"
                                " named during its INSTALL or UNINSTALL"),
    # -- privileges
    "roles": since((8, 0), "roles"),
    "may_set": Row("the privilege to SET GLOBAL", (((5, 7), "SUPER"),
                                                   ((8, 0), "SYSTEM_VARIABLES_ADMIN"))),
    "connection_admin": since((8, 0), "CONNECTION_ADMIN"),
    # -- what can be looked at
    "keyring_keys": since((8, 0, 16), "performance_schema.keyring_keys"),
    "error_log": since((8, 0, 22), "performance_schema.error_log"),
    "log_numbers": since((8, 0), "a number in each line of the error log"),
    "explain_analyze": since((8, 0, 18), "EXPLAIN ANALYZE"),
    # -- what is encrypted, and components
    "truncate_asks": since((8, 0), "a TRUNCATE TABLE that takes the master key"),
    "recovers_without_key": Row("a recovery that goes on if the redo log's master key is missing",
                                (((5, 7), True), ((8, 0), False), ((8, 4), True))),
    "logs": since((8, 0, 16), "encryption of redo, undo and binary logs, and ROTATE BINLOG"),
    "components": since((8, 0, 24), "keyring components, and migration to one"),
    "sensitive": since((8, 0, 29), "SET PERSIST that encrypts a value, by a component"),
    "from_component": since((8, 4), "migration from a component"),
    # -- the README's sections on outages, containers and replicas
    "runbook": since((8, 0, 27), "the statements of the README's runbook"),
    "quotes": since((9, 0), "the messages that the README quotes"),
    "reset_binlog": Row("forgets the binary logs", (((5, 7), "RESET MASTER"),
                                                    ((8, 2), "RESET BINARY LOGS AND GTIDS"))),
}


class Expect:
    """The table's values for a version."""

    def __init__(self, version: Version) -> None:
        self.version = version

    def __getattr__(self, name: str) -> object:
        if name not in TABLE:
            raise AttributeError(f"the table of versions has no row '{name}'")
        return [value for first, value in TABLE[name].values if first <= self.version][-1]

    def lacks(self, name: str) -> str:
        """Why a test that needs this is left out; nothing if it is not."""
        version = ".".join(map(str, self.version))
        return "" if getattr(self, name) else f"MySQL {version} lacks this: {TABLE[name].what}"
