"""The alerts of the manual fire when their condition is brought about, and are silent before.

Real servers, by both doors; Debian's prometheus-sql-exporter and mysqld_exporter ask them, with the
example's queries and accounts; and promtool judges the rules by what these gave.
"""

import contextlib
import json
import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

import pytest

from kms_emulator import (ACCESS_KEY_ID, ACCOUNT, KEY_ARN, MULTI_REGION_ID, REGION, SECRET,
                          Emulator)
from manual import TOP, command, section
from mysql_fixtures import RELOAD, Stage, wait_for
from servers import _end, _spawn, certificates, free_port, run_in_tree

pytestmark = pytest.mark.needs("components")

TITLE = "What to alert on"
EXAMPLES = TOP / "tests" / "package" / "examples"
RULES, QUERIES = EXAMPLES / "alerts.yaml", EXAMPLES / "sql_exporter.yaml"
ALERTS = re.findall(r"(?m)^  - alert: (\w+)$", RULES.read_text())
OTHER = "eu-central-1"
METRIC = re.compile(r"(?m)^((?:sql_keyring_aws|sql_exporter_last_scrape|mysql_up|"
                    r"mysql_global_status_keyring_aws)\w*(?:{.*})?) (\S+)$")
Metrics = dict[str, str]


def test_the_manual_has_every_alert():
    """And says what to look at; and each has its condition here."""
    text, code = section(TITLE), Path(__file__).read_text()
    assert re.findall(r"(?m)^\| `(Keyring\w+)` \|", text) == ALERTS
    assert re.findall(r"\*\*(Keyring\w+)\*\*(?=:| and)", text) == ALERTS
    assert not [name for name in ALERTS if f'"{name}"' not in code]


def test_promtool_takes_the_rules_and_not_others(tmp_path):
    assert promtool("check", "rules", RULES).returncode == 0
    (tmp_path / "wrong.yaml").write_text(RULES.read_text().replace("== 0", "== ="))
    assert promtool("check", "rules", tmp_path / "wrong.yaml").returncode != 0


def promtool(*args: object) -> subprocess.CompletedProcess:
    argv, env = run_in_tree("promtool", *map(str, args))
    return subprocess.run(argv, env=env, text=True, capture_output=True)


# ---- what exporters give -------------------------------------------------------------------------

class Exporter:
    """A program that gives a server's state as metrics."""

    def __init__(self, program: str, folder: Path, *args: object) -> None:
        self.port = free_port()
        argv, env = run_in_tree(program, *map(str, args),
                                f"--web.listen-address=127.0.0.1:{self.port}")
        self.process = _spawn(argv, env, folder / f"{program}.log")

    def __enter__(self) -> "Exporter":
        wait_for(self.up, 60)
        return self

    def __exit__(self, *_: object) -> None:
        _end(self.process, 5)

    def up(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.text())
        return False

    def text(self) -> str:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/metrics", timeout=120) as reply:
            return reply.read().decode()

    def metrics(self) -> Metrics:
        return dict(METRIC.findall(self.text()))


class SqlExporter(Exporter):
    """With the example's queries, which it runs several times a second."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        text = QUERIES.read_text().replace("PASSWORD", "secret")
        text = text.replace("/run/mysqld/mysqld.sock", str(stage.db.socket))
        (folder / "queries.yaml").write_text(re.sub(r"(?m)^(  interval:) .*", r"\1 200ms", text))
        program, config, _ = command(TITLE, "prometheus-sql-exporter --")
        super().__init__(program, folder, config.replace(QUERIES.name, f"{folder}/queries.yaml"))

    def runs(self) -> dict[str, int]:
        return {query: int(count) for query, count in re.findall(
            r'(?m)^sql_exporter_queries_total{query="(\w+)".*} (\d+)$', self.text())}

    def metrics(self) -> Metrics:
        """After each query was begun anew, and ended: the probe first, because the others tell what
        it met.  (While none can be asked, what the last one gave stays.)"""
        self.anew("keyring_aws_probe")
        self.anew(*re.findall(r"(?m)^  - name: (\w+)$", QUERIES.read_text()))
        return super().metrics()

    def anew(self, *queries: str) -> None:
        """Until each was begun (then it counts) and ended (then it can begin a second time)."""
        def counts() -> list[int]:
            runs = self.runs()
            return [runs.get(query, 0) for query in queries]

        before = counts()
        wait_for(lambda: all(now > then + 1 for then, now in zip(before, counts())), 120)


def accounts(stage: Stage) -> None:
    """The example's, for the exporters; the functions of keyring_udf are there."""
    stage.install_functions()
    program, _, file = command(TITLE, "mysql < ")
    assert file == "monitor.sql"
    text = (EXAMPLES / file).read_text()
    assert text.count("'PASSWORD'") == 1
    argv, env = run_in_tree(program, "--no-defaults", f"--socket={stage.db.socket}", "-uroot")
    run = subprocess.run(argv, env=env, input=text.replace("'PASSWORD'", "'secret'"), text=True,
                         capture_output=True)
    assert run.returncode == 0, run.stderr


# ---- conditions ----------------------------------------------------------------------------------

class Case(NamedTuple):
    name: str
    well: Metrics
    then: Metrics
    alerts: tuple[str, ...]


Bring = Callable[[Stage], object]


class Watched(Stage):
    """A server with the exporters' accounts, and what they gave under each condition."""

    def __init__(self, door: str, folder: Path, **settings: object) -> None:
        super().__init__(door, **{"timeout": 6000, "connect_timeout": 3000, "start_seconds": 0,
                                  **settings})
        self.folder, self.cases, self.asked = folder, [], 0
        self.start()
        accounts(self)

    def quiet(self) -> None:
        """Restarts the server with an empty error log.  (At its first start there was no data file,
        which is a line to look at.)"""
        if self.db.process.poll() is None:
            assert self.db.stop() == 0
        self.db._log.write_bytes(b"")
        self.start()

    @contextlib.contextmanager
    def exporters(self) -> Iterator[Callable[[], Metrics]]:
        config = self.folder / "my.cnf"
        config.write_text("[client]\nuser = monitor\npassword = secret\n"
                          f"socket = {self.db.socket}\n")
        with SqlExporter(self, self.folder) as rows, Exporter(
                "prometheus-mysqld-exporter", self.folder, f"--config.my-cnf={config}") as status:
            yield lambda: {**rows.metrics(), **status.metrics()}

    def case(self, name: str, bring: Bring, *alerts: str, undo: Bring = lambda _: None) -> None:
        """What they give when all is well, and when the condition has been brought about."""
        self.quiet()
        with self.exporters() as seen:
            self.asked = self.kms.count()
            well = seen()
            bring(self)
            self.cases.append(Case(name, well, seen(), alerts))
        undo(self)


def judge(cases: list[Case], folder: Path) -> None:
    """For thirty minutes all is well, and then the condition lasts: promtool says what fires."""
    def scraped(metric: str) -> str:
        name, _, labels = metric.partition("{")
        return name + '{instance="db1",' + (labels or "}")

    def fires(minute: int, alerts: tuple[str, ...]) -> dict:
        return {"expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                "eval_time": f"{minute}m",
                "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}
                                for name in alerts]}

    tests = [{"name": each.name, "interval": "1m", "input_series": [
        {"series": scraped(name),
         "values": f"{each.well.get(name, '_')}x30 {each.then.get(name, '_')}x30"}
        for name in {**each.well, **each.then}],
        "promql_expr_test": [fires(28, ()), fires(46, each.alerts)]} for each in cases]
    (folder / "tests.yaml").write_text(json.dumps({
        "rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    run = promtool("test", "rules", folder / "tests.yaml")
    assert run.returncode == 0, run.stdout + run.stderr


def named(start: str) -> set[str]:
    """The metrics that the manual names."""
    return set(re.findall(rf"`({start}\w+)`", section(TITLE)))


def given(stage: Watched, start: str) -> set[str]:
    """The metrics that exporters gave."""
    return {name.partition("{")[0] for each in stage.cases for name in each.well
            if name.startswith(start)}


REFUSED = ("KeyringProbeFails", "KeyringKmsErrors", "KeyringErrorLine")


def slow_kms(stage: Watched) -> None:
    """KMS takes 2.5 s, for more requests than those that were quick and count as well."""
    stage.kms.set(latency_ms=2500)
    quick = stage.kms.count() - stage.asked
    wait_for(lambda: stage.kms.count() - stage.asked > 2 * quick + 1, 120)


def older_file(stage: Stage) -> Bring:
    """Makes a key; then somebody may put the data file in place that lacks it."""
    older = stage.data.with_name("older")
    shutil.copy(stage.data, older)
    assert stage.generate("newer") == 1

    def put_back(_: Stage) -> None:
        older.replace(stage.data)
        stage.sql(RELOAD)
    return put_back


def no_keyring(stage: Stage) -> None:
    """A server starts with a settings file that is no JSON."""
    assert stage.db.stop() == 0
    stage.db._log.write_bytes(b"")      # an exporter's statement may have been cancelled
    options = stage.options()
    stage.write_file("{")
    stage.db.start(*options)


def no_exporter(stage: Watched) -> Case:
    """The exporters are gone, and with them all that they gave."""
    return Case("the exporters are gone", stage.cases[0].well, {}, ("KeyringNotWatched",))


def check_what_monitor_may(stage: Watched) -> None:
    """It is the exporters', so others may come to know its password."""
    stage.start()
    rights = [right for right, in stage.sql("SHOW GRANTS FOR monitor@localhost")]
    assert [re.match("GRANT (.*?) TO", each)[1].replace("`", "") for each in rights] == [
        "USAGE ON *.*", "SELECT ON performance_schema.error_log",
        "SELECT ON performance_schema.keyring_component_status",
        "EXECUTE ON FUNCTION monitor.keyring_probe"]


def test_the_manual_s_thresholds_are_those_of_the_rules():
    """Each time in the table is the time in the rule: how long it lasts, or is looked back."""
    rules = dict(re.findall(r"(?ms)^  - alert: (\w+)$(.*?)(?=^  - alert|\Z)", RULES.read_text()))
    rows = re.findall(r"(?m)^\| `(Keyring\w+)` \|.*?\|(.*?)\|", section(TITLE))
    for name, threshold in rows:
        for number, unit in re.findall(r"(\d+) (minute|second)", threshold):
            forms = {"minute": rf"for: {number}m|\[{number}m\]|< {int(number) * 60}\b",
                     "second": rf"> {number}e6"}
            assert re.search(forms[unit], rules[name]), f"{name}: {threshold}"
    _, minutes = re.findall("interval: (.*)m", QUERIES.read_text())
    assert f"every {minutes} minutes" in section(TITLE)


@pytest.mark.parametrize("time, requests", [
    ('sql_keyring_aws_figure{figure="kms_time"}', 'sql_keyring_aws_figure{figure="kms_requests"}'),
    ("mysql_global_status_keyring_aws_kms_time", "mysql_global_status_keyring_aws_kms_requests")])
def test_counters_that_begin_again_are_not_slow(tmp_path, time, requests):
    """A restart or RELOAD may come to as many requests as there had been: no request is seen."""
    def case(then: str, made: str, *alerts: str) -> Case:
        return Case(f"{then} us, {made} requests", {time: "40000", requests: "2"},
                    {time: then, requests: made}, alerts)

    judge([case("30000", "2"), case("60000", "2"), case("30000", "1"), case("1940000", "4"),
           case("2140000", "4", "KeyringKmsSlow")], tmp_path)


def test_the_alerts_with_the_component(tmp_path):
    with Watched("component", tmp_path) as stage:
        kms, case = stage.kms, stage.case
        case("KMS cannot be reached", lambda _: kms.stop(), *REFUSED, "KeyringKmsUnreachable",
             "KeyringWarningLine", undo=lambda _: kms.start())
        case("KMS throttles", lambda _: kms.fault("*", "throttle", times=0, retry_after=9000),
             *REFUSED, "KeyringKmsThrottles", undo=lambda _: kms.clear_faults())
        case("KMS is slow", slow_kms, "KeyringKmsSlow", undo=lambda _: kms.set(latency_ms=0))
        case("the credentials are refused", lambda _: kms.remove_user(ACCESS_KEY_ID), *REFUSED,
             undo=lambda _: kms.add_user(ACCESS_KEY_ID, SECRET, ACCOUNT))
        case("the KMS key is disabled", lambda _: kms.set_key(KEY_ARN, state="Disabled"), *REFUSED,
             undo=lambda _: kms.set_key(KEY_ARN, state="Enabled"))
        case("the data file is an older one", older_file(stage), "KeyringKeysFewer",
             "KeyringWarningLine")
        case("the server has no keyring", no_keyring, "KeyringAbsent", "KeyringProbeFails",
             "KeyringErrorLine")
        case("the server is down", lambda _: stage.db.stop(), "KeyringNotWatched")
        judge([*stage.cases, no_exporter(stage)], tmp_path)
        assert named("sql_") == given(stage, "sql_")
        check_what_monitor_may(stage)


def test_the_alerts_with_the_plugin(tmp_path):
    """It has status variables in place of the rows."""
    with Watched("plugin", tmp_path) as stage:
        kms, case = stage.kms, stage.case
        assert stage.generate("removed") == 1
        case("KMS is slow", slow_kms, "KeyringKmsSlow", undo=lambda _: kms.set(latency_ms=0))
        case("KMS cannot be reached", lambda _: kms.stop(), *REFUSED, "KeyringWarningLine",
             undo=lambda _: kms.start())
        case("a key is removed", lambda _: stage.remove("removed"), "KeyringKeysFewer")
        case("the plugin is gone", lambda _: stage.uninstall(), "KeyringAbsent",
             "KeyringProbeFails")
        judge([*stage.cases, no_exporter(stage)], tmp_path)
        assert named("mysql_") <= given(stage, "mysql_")


@pytest.mark.parametrize("door", ["component", "plugin"])
def test_the_alert_of_another_region(tmp_path, door):
    certs = certificates()
    with Emulator(*certs.good, region=REGION) as home, home.sister(OTHER) as other:
        arn = home.add_key(REGION, ACCOUNT, MULTI_REGION_ID)
        home.replicate(arn, OTHER)
        with Watched(door, tmp_path, cmk_id=arn, endpoint=home.url,
                     failover_regions=f"{OTHER}={other.url}") as stage:
            stage.case("the key's region is away", lambda _: home.stop(), "KeyringOtherRegion",
                       "KeyringKmsErrors", "KeyringWarningLine")
            judge(stage.cases, tmp_path)
            home.start()
