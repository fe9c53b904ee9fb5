"""The examples of the header and of the manual work, the policy suffices, and the manual's tables
and log lines are the plugin's.  (The manual: the README and the man pages.)"""

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
import messages
import versions
from conftest import write_conf
from kms_emulator import ACCESS_KEY_ID, ACCOUNT, SECRET, Emulator, as_list
from manual import MANUAL, PAGES, README, blocks, section
from servers import Moto, certificates
from versions import OLDEST, TABLE

import botocore.session         # after its finder

TOP = Path(__file__).resolve().parent.parent
HEADER = (TOP / "keyring_aws.h").read_text()
WARNINGS = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
REGION = "eu-west-1"
SETTINGS_FILE = section("The settings file")


@pytest.fixture
def kms():
    certs = certificates()
    with Emulator(*certs.good) as emulator:
        emulator.ca = str(certs.ca)
        emulator.arn = emulator.add_key(REGION, ACCOUNT, alias="alias/app")
        yield emulator
        assert emulator.crashes == []


def header_example() -> str:
    """The first C program in the manual, as a user would copy it."""
    comment = HEADER[:HEADER.index("*/")]
    body = re.search(r"^ \*     int main\(void\)\n.*?^ \*     }$", comment, re.M | re.S).group()
    return re.sub(r"^ \* ?( {4})?", "", body, flags=re.M) + "\n"


def build_example(folder: Path, kms: Emulator, compiler: str, source: str) -> Path:
    conf = f'"keys.conf", .endpoint = "{kms.url}", .ca_file = {json.dumps(kms.ca)} }}'
    assert source.count('"keys.conf" }') == 1
    (folder / "example.c").write_text(
        '#define KEYRING_AWS_IMPLEMENTATION\n#include "keyring_aws.h"\n'
        + source.replace('"keys.conf" }', conf))
    subprocess.run([compiler, "-std=c99", *WARNINGS, f"-I{TOP}", "-o", "example", "example.c",
                    "-lbearssl", "-lcurl"], cwd=folder, check=True)
    return folder / "example"


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_first_example_of_the_header_works(tmp_path, kms, compiler):
    write_conf(tmp_path / "keys.conf", ACCESS_KEY_ID, SECRET)
    program = build_example(tmp_path, kms, compiler, header_example())
    done = subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"b: {kms.arn}\n"), done.stderr
    assert len(header_example().splitlines()) <= 32
    for action in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt", "ReEncrypt",
                   "RotateKeyOnDemand"):
        assert kms.count(action) >= 1, action
    assert b"correct horse" not in (tmp_path / "keys.kaws").read_bytes()
    assert stat.S_IMODE(os.stat(tmp_path / "keys.kaws").st_mode) == 0o600


def readme_policies() -> dict[tuple[str, bool], dict]:
    """The README's policies, by heading, and whether they say who may use a role."""
    found = [(head, json.loads(text)) for head, text in blocks()
             if text.startswith('{ "Version"')]
    policies = {(head, "Principal" in policy["Statement"][0]): policy for head, policy in found}
    assert len(policies) == len(found)
    return policies


def readme_my_cnf(title: str) -> str:
    """The lines of my.cnf in a section: its own, or those that it says to take."""
    own = [block for head, block in blocks()
           if head == title and block.startswith("[mysqld]")]
    others = re.findall(r"(?<!\S)my\.cnf: as for \[(\w+)\]", section(title))
    assert len(own) + len(others) == 1, title
    return own[0] if own else readme_my_cnf(f"On {others[0]}")


WORDS = {"ACCOUNT": ACCOUNT, "REGION": REGION, "NAMESPACE": "db", "SERVICE_ACCOUNT": "mysql",
         "CLUSTER": "blue", "EXTERNAL_ID": "x7Qm2", "ID": "0A1B", "HOSTNAME": "db1.example.com",
         "TRUST_ANCHOR_ARN": f"arn:aws:rolesanywhere:{REGION}:{ACCOUNT}:trust-anchor/0A1B"}


def filled_in(what: object, **words: str) -> str:
    """A policy, or text, with the README's words in capitals replaced."""
    text = what if isinstance(what, str) else json.dumps(what)
    words = WORDS | words
    return re.sub(rf"\b(?:{'|'.join(words)})\b", lambda word: words[word[0]], text)


def test_the_least_policy_suffices_and_is_needed(tmp_path, kms):
    """With the README's policy everything works. Without one of its actions, something fails."""
    policy = readme_policies()["The least that AWS must allow", False]
    policy = json.loads(filled_in(policy, KEY=kms.arn))
    program = build_example(tmp_path, kms, "gcc",
                            header_example().replace("alias/app", kms.arn))

    def works(document) -> subprocess.CompletedProcess:
        kms.add_user("AKIDLEAST", "least-secret", ACCOUNT, policy=document)
        write_conf(tmp_path / "keys.conf", "AKIDLEAST", "least-secret")
        (tmp_path / "keys.kaws").unlink(missing_ok=True)
        return subprocess.run([program], cwd=tmp_path, capture_output=True, text=True)

    done = works(policy)
    assert done.returncode == 0, done.stderr
    actions = [(0, action) for action in policy["Statement"][0]["Action"]]
    for place, action in actions + [(1, "kms:RotateKeyOnDemand")]:
        less = json.loads(json.dumps(policy))
        allowed = less["Statement"][place]["Action"]
        if isinstance(allowed, list):
            allowed.remove(action)
        else:
            del less["Statement"][place]
        done = works(less)
        assert done.returncode == 1 and "AccessDeniedException" in done.stderr, action


ASSUME = ["sts:AssumeRole"]
OIDC = "oidc.eks.REGION.amazonaws.com/id/ID"
POLICIES = {    # of each statement: the actions, for whom or on what, and under which conditions
    ("On EC2", True): [(ASSUME, {"Service": "ec2.amazonaws.com"}, {})],
    ("On ECS", True): [(ASSUME, {"Service": "ecs-tasks.amazonaws.com"}, {
        "ArnLike aws:SourceArn": "arn:aws:ecs:REGION:ACCOUNT:*",
        "StringEquals aws:SourceAccount": "ACCOUNT"})],
    ("On EKS with Pod Identity", True): [
        ([*ASSUME, "sts:TagSession"], {"Service": "pods.eks.amazonaws.com"}, {
            "StringEquals aws:RequestTag/eks-cluster-name": "CLUSTER",
            "StringEquals aws:RequestTag/kubernetes-namespace": "NAMESPACE",
            "StringEquals aws:RequestTag/kubernetes-service-account": "SERVICE_ACCOUNT"})],
    ("On EKS with IRSA", True): [
        (["sts:AssumeRoleWithWebIdentity"], {
            "Federated": f"arn:aws:iam::ACCOUNT:oidc-provider/{OIDC}"}, {
            f"StringEquals {OIDC}:aud": "sts.amazonaws.com",
            f"StringEquals {OIDC}:sub": "system:serviceaccount:NAMESPACE:SERVICE_ACCOUNT"})],
    ("SSO, aws login, IAM Roles Anywhere", True): [
        ([*ASSUME, "sts:TagSession", "sts:SetSourceIdentity"], {
            "Service": "rolesanywhere.amazonaws.com"}, {
            "ArnEquals aws:SourceArn": "TRUST_ANCHOR_ARN",
            "StringEquals aws:PrincipalTag/x509Subject/CN": "HOSTNAME"})],
    ("A role in another account", True): [
        (ASSUME, {"AWS": "arn:aws:iam::111122223333:role/mysql"}, {
            "StringEquals sts:ExternalId": "EXTERNAL_ID"})],
    ("A role in another account", False): [
        (ASSUME, "arn:aws:iam::444455556666:role/keyring", {})],
    ("The least that AWS must allow", False): [
        ([f"kms:{each}" for each in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt",
                                     "ReEncryptFrom", "ReEncryptTo")], "KEY", {
            "StringEquals kms:EncryptionContext:app": "keyring_aws"}),
        (["kms:RotateKeyOnDemand"], "KEY", {})],
    ("A second region", False): [
        ([f"kms:{each}" for each in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt",
                                     "ReEncryptFrom", "ReEncryptTo")], "KEY", {
            "StringEquals kms:EncryptionContext:app": "keyring_aws"}),
        ([f"kms:{each}" for each in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "Decrypt")],
         "REPLICA", {"StringEquals kms:EncryptionContext:app": "keyring_aws"}),
        (["kms:RotateKeyOnDemand"], "KEY", {})],
}


def test_each_policy_of_the_readme_allows_just_what_is_needed():
    """AWS's own documentation says what a trust policy needs."""
    def read(statement: dict) -> tuple:
        wanted = {"Effect", "Action", "Condition", "Principal", "Resource"}
        assert set(statement) <= wanted and statement["Effect"] == "Allow", statement
        assert ("Principal" in statement) != ("Resource" in statement)
        conditions = {f"{test} {name}": value for test, values in
                      statement.get("Condition", {}).items() for name, value in values.items()}
        return (as_list(statement["Action"]), statement.get("Principal", statement.get("Resource")),
                conditions)

    policies = readme_policies()
    assert all(policy["Version"] == "2012-10-17" for policy in policies.values())
    assert {key: list(map(read, policy["Statement"])) for key, policy in policies.items()
            } == POLICIES


def test_the_quick_start_s_policies_are_those_of_the_examples():
    found = re.findall(r'(?ms)<<END\n *({ "Version".*?)^ *END$', section("Quick start"))
    given = [json.loads(re.sub(r"\$KEY|\${KEY:[?]}", "KEY", text)) for text in found]
    examples = TOP / "tests/package/examples"
    assert given == [json.loads((examples / name).read_text())
                     for name in ("policy.json", "trust-ec2.json")]


def test_moto_takes_the_policies_of_the_readme():
    """It checks what AWS's grammar says of them, as it then refuses each with a mistake in it."""
    certs = certificates()
    with Moto(tls=certs.good) as moto:
        session = botocore.session.Session()
        session.set_credentials(moto.access_key_id, moto.secret)
        iam = session.create_client("iam", "us-east-1", endpoint_url=moto.url,
                                    verify=str(certs.ca))
        iam.create_role(RoleName="mysql", AssumeRolePolicyDocument="{}")
        for (_, trust), policy in readme_policies().items():
            text = filled_in(policy, KEY=moto.key_arn, REPLICA=moto.key_arn)
            put_policy(iam, text, trust)
            for right in ("2012-10-17", "Allow", "Action", "sts:" if trust else "Resource"):
                assert f'"{right}' in text
                with pytest.raises(botocore.exceptions.ClientError, match="MalformedPolicyDocum"):
                    put_policy(iam, text.replace(f'"{right}', '"Wrong'), trust)


def put_policy(iam, text: str, trust: bool) -> None:
    if trust:
        iam.update_assume_role_policy(RoleName="mysql", PolicyDocument=text)
    else:
        iam.put_role_policy(RoleName="mysql", PolicyName="keyring", PolicyDocument=text)


def test_my_cnf_has_only_settings_in_the_readme():
    """And each way to have a role has its few lines."""
    settings = {name for name, *_ in plugin_rows("^static const plug__settings_row", ROW)}
    found = [(head, set(re.findall(r"(?m)^keyring_aws_(\w+) *=", text)))
             for head, text in blocks()]
    assert set().union(*(names for _, names in found)) <= settings
    roles = {head for head, _ in POLICIES} - {"The least that AWS must allow", "A second region"}
    for role in roles:
        names = re.findall(r"(?m)^keyring_aws_(\w+) *=", readme_my_cnf(role))
        assert "auth" in names and len(names) <= 4, role


# ---- the manual's tables are the plugin's -------------------------------------------------------

ROW = re.compile(r'{ "(\w+)", PLUG__(\w+), PLUG__(\w+),.*?(?:(?:text = ("[^"]*")|number = {(.*?)}|'
                 r'flag = (1)),.*?)?[.]help', re.S)
AT_RUN_TIME = {"MY_CNF": "read only", "SET": "`SET GLOBAL`",
               "SET_CHECKED": "`SET GLOBAL`, KMS is asked"}


def plugin_rows(start: str, row: str) -> list[str]:
    """The rows of a table of the plugin's source: each begins with a name in a line of its own."""
    source = (TOP / "keyring_aws_plugin.c").read_text()
    table = re.search(rf"{start}.*?^(?:}};|\n)", source, re.M | re.S)[0]
    rows = re.findall(row, table)
    assert len(rows) == len(re.findall(r'^    (?:{ "|ROW[(]"|X[(]keyring)', table, re.M)) > 0
    return rows


def readme_rows(name: str) -> list[list[str]]:
    """The cells of the manual's table whose rows begin with such a name."""
    return [[cell.strip() for cell in row.split("|")[1:-1]]
            for row in re.findall(rf"^\| `{name}`.*", MANUAL, re.M)]


def test_the_readme_lists_every_setting():
    settings = plugin_rows("^static const plug__settings_row", ROW)

    def row(name, kind, where, text, numbers, flag):
        of = [str(eval(each)) for each in numbers.split(",")[:3]] if numbers else []
        default = (f"`{of[0]}`" if of else text.replace('"', "`") if kind == "TEXT" else
                   "`ON`" if flag else "`OFF`")
        return [f"`keyring_aws_{name}`",
                f"{of[1]} to {of[2]}" if of else {"TEXT": "text", "FLAG": "ON, OFF"}[kind],
                default, AT_RUN_TIME[where]]

    assert readme_rows(r"keyring_aws_\w+") == [
        row(*each) for each in settings if each[2] != "HIDDEN"]
    for name, *_ in settings:
        assert (f"\n* `keyring_aws_{name}`: " in MANUAL) == (name != "open_mode")


def test_the_readme_lists_every_status_variable_and_function():
    status = plugin_rows("^static plug__abi_show plug__status_table",
                         r'(?:ROW[(]"|{ "Keyring_aws_)(\w+)"')
    assert [name for name, _ in readme_rows(r"Keyring_aws_\w+")] == [
        f"`Keyring_aws_{name}`" for name in status]
    functions = plugin_rows("^#define PLUG__FUNCTIONS", r"X[(](keyring_\w+),")
    assert sorted(name for name, _ in readme_rows(r"keyring_aws_\w+[(][)]")) == sorted(
        f"`{name}()`" for name in functions)


def test_the_readme_lists_every_key_of_the_settings_file():
    """Each with its setting's default, if it sets one."""
    settings = {name: (kind, text, numbers) for name, kind, _, text, numbers, _ in
                plugin_rows("^static const plug__settings_row", ROW)}
    keys = plugin_rows("^} plug__config_keys", r'{ "([\w.]+)", +PLUG__(\w+), +(?:"(\w+)"|NULL) }')
    rows = {}
    for cells in (row.split("|")[1:-1] for row in re.findall(r"^\| `.*", SETTINGS_FILE, re.M)):
        first, *others = re.findall(r"`([\w.]+)`", cells[0])
        for name in (first, *(first.rpartition(".")[0] + other for other in others)):
            rows[name] = cells[1].strip()
    assert set(rows) == {name for name, kind, _ in keys if kind != "OBJECT"} | {"keyring_aws"}
    for name, kind, setting in keys:
        _, text, numbers = settings.get(setting, ("", "", ""))
        default = (f"`{eval(numbers.split(',')[0])}`" if numbers else f"`{text}`" if text else
                   "`false`" if kind == "FLAG" else "")
        if kind != "OBJECT" and name != "data_file":
            assert rows[name] == default, name


def test_the_manual_lists_the_component_s_status_rows():
    source = (TOP / "keyring_aws_plugin.c").read_text()
    names = re.findall(r'(?: ROW\(|services_row\(rows, )"([A-Z]\w+)"', source)
    assert len(names) > 20 and re.findall(
        r"(?m)^\| `(?!Keyring_)([A-Z]\w+)` \|", section("Status values")) == names


def test_the_readme_names_nothing_that_is_not_there():
    source = (TOP / "keyring_aws_plugin.c").read_text()
    for name in re.findall(r"`(keyring_aws_\w+|Keyring_aws_\w+)", MANUAL):
        assert re.sub(r"(?i)^keyring_aws_", "", name) in source, name


def anchors(text: str) -> set[str]:
    """What a link may lead to in a page: its headings, as GitHub names them."""
    return {"#" + re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-")
            for head in re.findall(r"^##+ (.*)", text, re.M)}


@pytest.mark.parametrize("page", [README, *PAGES], ids=lambda page: page.stem)
def test_every_link_goes_somewhere(page):
    """Each leads to a file, and to a heading there."""
    text = page.read_text()
    places = re.findall(r"\[[^]]+\]\(([^)]+)\)|(?m:^\[[^]]+\]: (\S+)$)", text)
    for place in map("".join, places):
        name, mark, anchor = place.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), place
        assert not mark or f"#{anchor}" in anchors(target.read_text()), place
    named = set(re.findall(r"(?m)^\[([^]]+)\]: ", text))
    assert set(re.findall(r"\]\[([^]]+)\]", text)) == named


def test_the_readme_names_every_page_and_chapter():
    text = README.read_text()
    heads = re.findall(r"^## (.*)", text, re.M)
    listed = text.partition("On this page:")[2].partition("\n\n")[0]
    assert [" ".join(name.split()) for name in re.findall(r"\[([^]]+)\]", listed)] == heads[:-1]
    for page in PAGES:
        assert f"tests/package/man/{page.name}" in text, page.name


def test_each_chapter_of_the_readme_names_its_page():
    """The library's is the header."""
    *chapters, licence = re.split(r"(?m)^## ", README.read_text())[1:]
    assert licence.startswith("Licence") and len(chapters) > 9
    for chapter in chapters:
        assert re.search(r"keyring_aws[\w-]*\(7\)\]\[|`keyring_aws[.]h`", chapter), chapter[:40]


def test_no_two_headings_of_the_manual_are_the_same():
    """Each text below a heading is found by its words alone."""
    heads = re.findall(r"^##+ (.*)", MANUAL, re.M)
    assert sorted(heads) == sorted(set(heads))


# ---- what no command would show ----------------------------------------------------------------

MODES = (       # what is installed, or where to: the first that fits tells the owners and the mode
    (r"[.]so\b|/plugin/$", "(644|755)"), (r"\$SAFE$", "-m 700"),
    (r"mysql-aws$", "-o mysql -g mysql -m 700"), (r"mysql-keyring$", "-o mysql -g mysql -m 750"),
    (r"[.]copy$|[.]last\b", "-m 600"),
    (r"component_keyring_aws[.]cnf$|\$CNF$|\$SETTINGS\b", "(-o root )?-g mysql -m 640"),
    (r"\$DATA$|\$TO\b|keyring_aws_(data|conf)\b|mysql-keyring/", "-o mysql -g mysql -m 600"),
    (r"mysqld[.]my|[.]conf$|/keyring_aws[.]cnf$", "-m 644"))


def test_what_is_installed_is_read_only_by_whom_it_is_for():
    """A command with another mode would work as well."""
    lines = re.findall(r"(?m)^ {4,}(?:\[ .* \] && )?(install -.*)", re.sub(r"\\\n *", "", MANUAL))
    assert len(lines) > 25
    for line in lines:
        fits = [mode for what, mode in MODES if re.search(what, line.partition(" <<")[0])]
        assert fits and re.search(fits[0], line), line


CONFINES = (    # lines without which all works, and more is allowed
    ("keyring_aws.service.conf", """LimitCORE=0 ProtectSystem=strict ProtectHome=yes
        PrivateDevices=yes ProtectKernelTunables=yes ProtectKernelModules=yes ProtectKernelLogs=yes
        ProtectControlGroups=yes NoNewPrivileges=yes CapabilityBoundingSet= RestrictNamespaces=yes
        RestrictSUIDSGID=yes MemoryDenyWriteExecute=yes SystemCallFilter=@system-service"""),
    ("kubernetes.yaml", """automountServiceAccountToken:false readOnlyRootFilesystem:true
        allowPrivilegeEscalation:false runAsNonRoot:true"""))


def test_no_line_that_confines_the_server_is_lost():
    for name, wanted in CONFINES:
        text = (TOP / "tests/package/examples" / name).read_text().replace(": ", ":")
        lines = {line.strip() for line in text.splitlines()}
        assert not {*wanted.split()} - lines, name


def test_nowhere_does_the_manual_advise_what_loses_rows():
    before = re.findall(r"(\w+ \w+) `?innodb_force_recovery", " ".join(MANUAL.split()))
    assert len(before) > 4 and {*before} == {"Never set", "not set"}


def test_the_manual_names_variables_of_terraform_that_are_there():
    terraform = (TOP / "tests/package/examples/main.tf").read_text()
    named = set(re.findall(r'-var "?(\w+)=', MANUAL))
    assert named == set(re.findall(r'(?m)^variable "(\w+)"', terraform)) - {"name"}


def test_the_readme_counts_requests_as_the_page_on_sizing_does():
    """That page's table is tried on servers."""
    start, rotation = (re.search(rf"(?m)^\| {what} \| (.*?) \|", MANUAL)[1] for what in (
        "the server starts", "the InnoDB master key is rotated"))
    text = " ".join(section("Sizing", README.read_text()).split())
    assert f"encrypted tables takes {start} requests" in text
    assert f"rotation of the master key {rotation}:" in text


# ---- figures in the text are the sources' -------------------------------------------------------

FIGURES = (     # what the manual or the header says, in which unit, and the figures of the sources
    ("A key that KMS generates has at most {} bytes", 1, "KAWS_GENERATE_MAX"),
    ("a key that is stored at most {}:", 1, "KAWS_PLAIN_MAX"),
    ("id and owner have at most {} bytes each", 1, "KAWS_NAME_MAX"),
    ("A key id or user id has at most {} bytes", 1, "KAWS_NAME_MAX"),
    ("A generated key has at most {} bytes, a stored key {};", 1,
     "KAWS_GENERATE_MAX KAWS_PLAIN_MAX"),
    ("A key of more than {} bytes ends the migration", 1, "KAWS_PLAIN_MAX"),
    ("KMS encrypts {} bytes at most", 1, "KAWS_PLAIN_MAX"),
    ("cache keeps {} keys and 1 MiB at most", 1, "KAWS__SHIELD_KEYS"),
    ("cache keeps 1,024 keys and {} MiB at most", 1 << 20, "KAWS__SHIELD_BYTES"),
    ("keys are kept, at most {} keys and 1 MiB;", 1, "KAWS__SHIELD_KEYS"),
    ("keys are kept, at most 1024 keys and {} MiB;", 1 << 20, "KAWS__SHIELD_BYTES"),
    ("fetched keys are kept in memory for {} s", 1, "CACHE_KEYS"),
    ("becomes `keyring_aws_cache_seconds = {}`", 1, "CACHE_KEYS"),
    ("needs about {} bytes for each key", 1, "MEMORY/100*100"),
    ("about {} bytes a key", 1, "MEMORY/100*100"),
    ("(an entry has at most {})", 1, "KAWS__STORE_APPEND_MAX"),
    ("allocate more than {} MiB ({} MiB, if", 1 << 20, "KAWS__FILE_SMALL KAWS__FILE_LARGE"),
    ("Credentials have at most {} (id), {} (secret) and {} (token) bytes", 1,
     "KAWS__SOURCES_ID_MAX KAWS__SIGV4_SECRET_MAX KAWS__SOURCES_TOKEN_MAX"),
    ("a CA file {} MiB", 1 << 20, "KAWS__CURL_CA_MAX"),
    ("signs at most {} headers and {} query parameters", 1, "KAWS__SIGV4_MAX KAWS__SIGV4_MAX"),
    ("at most {} KiB of a reply's header lines", 1024, "KAWS__CURL_HEAD_MAX"),
    ("iles may have {} bytes together", 1, "KAWS__READING_ROOM-1"),
    ("Both files together may have {} bytes", 1, "KAWS__READING_ROOM-1"),
    ("for up to {} roles", 1, "KAWS__READING_ROLES-1"),
    ("up to {} roles may follow", 1, "KAWS__READING_ROLES-1"),
    ("`duration_seconds` (900 to {};", 1, "DURATION"),
    ("for nothing else: 2 to {} letters", 1, "EXTERNAL_ID"),
    ("the token, of {} bytes at most", 1, "KAWS__STS_TOKEN"),
    ("at most each time, and up to {} times", 1, "KAWS__STS_TRIES"),
    ("service did not answer in {} seconds", 1000, "2*KAWS__REMOTE_MS"),
    ("when {} minutes are left", 60, "KAWS__CREDS_EARLY_S"),
    ("minutes are left, or a {} of", 1, "KAWS__CREDS_PART"),
    ("asked again after {} minute", 60000, "KAWS__CREDS_PAUSE_MS"),
    ("asks again after {} minute", 60000, "KAWS__CREDS_PAUSE_MS"),
    ("first time, and then at most once {} minute", 60000, "PLUG__QUIET_MS"),
    ("List all regions that have the key, {} at most", 1, "KAWS__REGIONS_MAX"),
    ("lists those regions, {} at most", 1, "KAWS__REGIONS_MAX"),
    ("one call at a time, every {} to {} seconds", 1000, "KAWS__BREAKER_LEAST KAWS__BREAKER_MOST"),
    ("after {} s, and then after pauses that double up to {} s", 1000,
     "KAWS__BREAKER_LEAST KAWS__BREAKER_MOST"),
    ("tries home every {} seconds", 1000, "KAWS__BREAKER_MOST"),
    ("within {} seconds after KMS is back", 1000, "KAWS__BREAKER_MOST"),
    ("*Later* means: {} seconds", 1000, "KAWS__BREAKER_MOST"),
    ("is back, wait for {} seconds", 1000, "KAWS__BREAKER_MOST"),
    ("below {} ms each call does", 1, "KAWS__BREAKER_BRIEF"),
    ("such pair of lines in {} seconds", 1000, "KAWS__BREAKER_QUIET"),
    ("for one outage in {} s for each host", 1000, "KAWS__BREAKER_QUIET"),
    ("one such line in {} seconds", 1000, "KAWS__ROUTE_QUIET"),
    ("keyring_aws_connect_timeout` and {} a second longer", 1000, "KAWS__ROUTE_SHORT"),
    ("{} seconds at most for the first call", 1000, "CONNECT_TIMEOUT+KAWS__ROUTE_SHORT"),
    ("the first call takes {} s longer", 1000, "CONNECT_TIMEOUT+KAWS__ROUTE_SHORT"),
    ("once in {} hours of use", 3600000, "KAWS__ROUTE_DAY"),
    ("at least every {} ms", 1, "KAWS__CANCEL_MS"),
    ("that waits for KMS, within {} ms", 1, "2*KAWS__CANCEL_MS"),
    ("waited {} seconds for another process, or {} seconds in which", 1000,
     "KAWS__FILE_WAIT_MS KAWS__VAULT_TURN_MS"),
    ("There are up to {} attempts", 1, "ATTEMPTS"),
    ("that the quota allows in `keyring_aws_timeout` ({} for that", 1, "TIMEOUT/2"),
    ("take owners of at most {} bytes", 1, "PLUG__SHORT_USER"),
    ("keys at the same time, up to {} are kept", 1, "KAWS__CURL_IDLE"),
    ("(byte {}), no key is damaged", 1, "KAWS__STORE_COMMITTED"),
    ("any other number below {} the header itself", 1, "KAWS__STORE_HEADER"),
    ("the last {} bytes of the file are its checksum", 1, "KAWS__STORE_DIGEST"),
    ("libcurl 7.{} or later", 1, "LIBCURL"),
    ("works at most {} times in the life", 1, "ROTATIONS"),
    ("this KMS key was rotated {} times", 1, "ROTATIONS"),
    ("user `mysql` is number {}.", 1, "POD_USER"), ("(`chown 0:{}`", 1, "POD_USER"),
    ("The start may take {} minutes", 60, "POD_PERIOD*POD_FAILURES"),
)
ROW_NUMBER = r'\n    { "%s", (?:.|\n)*?number = { (\d+)'
PLACES = {      # a figure without a name in C: its file, and what it stands in
    "CACHE_KEYS": ("keyring_aws_plugin.c", r"values\[cache\][.]number = (\d+)"),
    "CONNECT_TIMEOUT": ("keyring_aws_plugin.c", ROW_NUMBER % "connect_timeout"),
    "TIMEOUT": ("keyring_aws_plugin.c", ROW_NUMBER % "timeout"),
    "DURATION": ("keyring_aws.h", r"want\[KAWS__DURATION\], (\d+)"),
    "EXTERNAL_ID": ("keyring_aws.h", r"external_id, 2, (\d+)"),
    "ATTEMPTS": ("keyring_aws.h", r"c->attempt - c->throttled >= (\d)"),
    "LIBCURL": ("keyring_aws.h", r"needs libcurl 7[.](\d+)"),
    "MEMORY": ("tests/bench/results.md", r"memory a key, 100,000 keys\*\*: (\d+) bytes"),
    "ROTATIONS": ("tests/hosts/kms_emulator.py", r"ROTATIONS_MAX = (\d+)"),
    "POD_USER": ("tests/package/examples/kubernetes.yaml", r"runAsUser: (\d+)"),
    "POD_PERIOD": ("tests/package/examples/kubernetes.yaml", r"periodSeconds: (\d+)"),
    "POD_FAILURES": ("tests/package/examples/kubernetes.yaml", r"failureThreshold: (\d+)"),
}
NUMBERS = {"a": 1, "half": 0.5, "third": 3, "two": 2, "three": 3, "five": 5, "ten": 10}


def figures(prose: str) -> list[str]:
    """For the compiler: each figure of the text, which must be that of the sources."""
    found = []
    for text, unit, names in FIGURES:
        pattern = re.escape(text).replace(r"\{\}", r"(\d+(?:,\d{3})*(?:[.]\d+)?|[a-z]+)")
        said = [each.groups() for each in re.finditer(pattern, prose)]
        assert said, f"nothing says: {text}"
        for name, figure in ((name, figure) for each in said for name, figure in
                             zip(names.split(), each, strict=True)):
            value = NUMBERS.get(figure) or float(figure.replace(",", ""))
            found.append(f'_Static_assert({name} == {value * unit:.0f}, "{text}, not {figure}");')
    return found


def test_the_figures_of_the_text_are_those_of_the_sources():
    """Each is changed once, too: then the compiler sees that."""
    prose = " ".join((MANUAL + re.sub(r"(?m)^ \* ?", "", HEADER[:HEADER.index("*/")])).split())
    right = figures(prose)
    wrong = [re.sub(r"== (\d+)", lambda value: f"== {int(value[1]) + 1}", each) for each in right]
    source = '#include "keyring_aws_plugin.c"\n' + "".join(
        f"#define {name} {re.search(where, (TOP / file).read_text())[1]}\n"
        for name, (file, where) in PLACES.items())

    def refused(claims: list[str]) -> set[str]:
        done = subprocess.run(["gcc", "-std=c11", "-fsyntax-only", "-xc", "-"], cwd=TOP, text=True,
                              input=source + "\n".join(claims), capture_output=True)
        return {*re.findall(r'error: (.*)', done.stderr)}

    assert refused(right) == set()
    assert len(refused(wrong)) == len({*wrong})


SINCE = (       # what the manual says of a version, and that version's row in versions.py
    (r"For MySQL (\S+) or later, with the access key", OLDEST),
    (r"use that server\s+\((\S+) or later\)", OLDEST), (r"(\S+) and later; 9.x warns", OLDEST),
    (r"For MySQL (\S+) or later. \*\*In", "components"),
    (r"favour of components, which came with (\S+)[.]", "components"),
    (r"The component, for MySQL (\S+) and later", "components"),
    (r"MySQL \| (\S+) and later \|", "components"), (r"component needs (\S+) or", "components"),
    (r"`performance_schema.error_log` \((\S+) and later\)", "error_log"),
    (r"Before (\S+) there is no table of the component's", "components"),
)
KNOWN_VERSIONS = {"8.0.14": "MySQL's manual, of binlog_encryption"}


def test_the_versions_in_the_text_are_those_of_the_tests():
    known = {".".join(map(str, version)) for row in TABLE.values() for version, _ in row.values}
    results = (TOP / "tests/bench/results.md").read_text()
    known |= {*re.findall(r"\d[.]\d[.]\d+", str(versions.__doc__) + results), *KNOWN_VERSIONS}
    for text, row in SINCE:
        version = TABLE[row].values[-1][0] if isinstance(row, str) else row
        said = ".".join(map(str, version))
        assert {*re.findall(text, MANUAL)} == {said}, text
        known.add(said)
    assert {*re.findall(r"(?<![\d.])[5-9][.]\d[.]\d+(?![\d.]*\d)", MANUAL)} <= known


def test_the_table_of_hosts_is_the_header_s():
    """Those of STS have the same form."""
    rows = re.findall(r"(?m)^\| (\w+) \| `(kms\S+)` \| `(\S+)` \|", section("FIPS and IPv6"))
    assert [(switch, kms) for switch, kms, _ in rows] == re.findall(
        r"(?m)^ \*     (neither|fips|dualstack|both) +(kms\S+)$", HEADER)
    assert len(rows) == 4 and [sts for *_, sts in rows] == [
        "sts" + kms.removeprefix("kms") for _, kms, _ in rows]


TABLES = r"1,000 encrypted tables, KMS takes 10 ms"
MEASURED = (    # what the manual says was measured, and what the bench writes of it
    (r"a start took (\S+) s instead of",
     rf"start of mysqld, {TABLES}, cache 60 s\*\*: (\S+) (m?s)"),
    (r"a start took \S+ s instead of (\S+) s", rf"start of mysqld, {TABLES}\*\*: (\S+) (m?s)"),
    (r"a rotation (\S+) s instead of", rf"MASTER KEY, {TABLES}, cache 60 s\*\*: (\S+) (m?s)"),
    (r"a rotation \S+ s instead of (\S+) s", rf"MASTER KEY, {TABLES}\*\*: (\S+) (m?s)"),
    (r"fetches succeeded, and the longest took (\S+) s", r"0 fetches failed, the longest took (\S+)"
     r" (m?s) \(goal: 90%"),
)


def test_the_times_in_the_text_are_about_those_of_the_bench():
    results = " ".join((TOP / "tests/bench/results.md").read_text().split())
    text = " ".join(MANUAL.split())
    for said, wrote in MEASURED:
        (took, unit), = re.findall(wrote, results)
        seconds = float(took) / {"s": 1, "ms": 1000}[unit]
        told = [float(each.rstrip(".,")) for each in re.findall(said, text)]
        assert told and all(abs(each - seconds) < 0.2 * seconds for each in told), (said, took)


def test_each_step_that_the_text_names_is_there():
    """Such as step 3 of another runbook."""
    found = re.findall(r"(?i)\bsteps? (\d+)(?: to (\d+))? of\s+\[[^]]+\]\([^)#]*#([\w-]+)\)",
                       MANUAL)
    assert len(found) > 4
    heads = {anchor: head for head in re.findall(r"(?m)^##+ (.*)", MANUAL)
             for anchor in anchors(f"## {head}")}
    for first, last, anchor in found:
        steps = re.findall(r"(?m)^(\d+)\. ", section(heads[f"#{anchor}"]))
        assert {first, last or first} <= {*steps}, (first, last, anchor)


# ---- every line for the log is explained --------------------------------------------------------

def logged_lines() -> list[messages.Message]:
    """Every line that the library or the plugin can log."""
    rows = []
    for path in messages.SOURCES:
        source = path.read_text()
        found = messages.listed(source)
        assert len(found) == len(re.findall(r"#define (?:KAWS|PLUG)__LOG_", source)) > 10, path
        rows += found
    return rows


def test_every_line_has_a_number_of_its_own():
    rows = logged_lines()
    numbers = [number for _, number, _, _ in rows]
    assert len(set(numbers)) == len(numbers) and numbers == sorted(numbers)
    source = HEADER + (TOP / "keyring_aws_plugin.c").read_text()
    for name, number, _, _ in rows:
        assert len(re.findall(rf"(?:KAWS|PLUG)__LOG_{name}\b", source)) >= 2, f"{name} is not used"
        assert (101 <= number <= 299) == (f"KAWS__LOG_{name} " in source), name


def test_every_line_comes_from_the_tables():
    """No call has a number, level or format of its own, and nothing is printed outside the log."""
    source = HEADER + (TOP / "keyring_aws_plugin.c").read_text()
    for call, first in re.findall(r"\b(kaws__err_log|plug__lines_say)\(([^;]*?);", source, re.S):
        assert re.search(r"(?:KAWS|PLUG)__LOG_\w+", first) or "format" in first, (call, first)
    assert len(re.findall(r"hooks->log\(", source)) == 1
    assert re.sub(r"(?m)^ [*].*", "", source).count("stderr") == 2      # without a server's log
    code = re.sub(r"(?m)^ [*].*", "", source)
    assert not re.search(r"\bstdout\b|\b(?:perror|puts|printf)\(", code)


def test_the_page_of_messages_is_that_of_the_lists():
    """Each has its heading, its level and its words there, in the order of the numbers, and what to
    do.  Every tag that the manual names is among them."""
    page = messages.PAGE.read_text()
    assert messages.renewed(page) == page, "run tests/package/messages.py"
    numbers = {message.number for message in logged_lines()}
    advice = messages.entries(page.partition(messages.LAST)[0])
    assert set(advice) == numbers
    assert [number for number, text in advice.items() if len(text) < 20] == []
    assert {int(number) for number in re.findall(r"KAWS-(\d+)", MANUAL)} <= numbers


def test_a_new_or_changed_message_shows(monkeypatch, tmp_path):
    """Its head is written; what stands below it stays that of its number."""
    source = tmp_path / "source.h"
    source.write_text(r'''
#define AGAIN \
    "try again"
#define KAWS__LOG_A 101, KAWS__NOTE, "%s: " AGAIN
#define PLUG__LOG_B 303, PLUG__ERROR, "all " \
    "%s, %ld s%s lost"
''')
    monkeypatch.setattr(messages, "SOURCES", [source])
    page = f"x\n{messages.FIRST}\n### KAWS-303\n\nold\n\nMend it.\n{messages.LAST}y\n"
    assert messages.renewed(page) == (
        f"x\n{messages.FIRST}\n### KAWS-101\n\nNote: `...: try again`\n\n\n\n"
        f"### KAWS-303\n\nError: `all ..., ... s lost`\n\nMend it.\n{messages.LAST}y\n")


OTHERS_SAY = re.compile(                # libcurl, MySQL, the system, AWS
    r"CONNECT tunnel|resolve|Resolving|wrong version|trust anchor|Exception|HTTP|unknown variable|"
    r"already exists|Configuring|manifest|denied|space left|quota|Read-only|Stale|not connected|"
    r"timed out|No locks|not supported|not implemented|KAWS-|MY-|keyring_operations|busy")


def test_the_words_of_a_reason_are_those_of_the_sources():
    """Of each reason, some words in a row occur in the sources."""
    sources = messages.words(HEADER + (TOP / "keyring_aws_plugin.c").read_text())
    reasons = re.findall(r"^[*] \*\*(.*?)\*\*:", section("What the end of a line says"),
                         re.M | re.S)
    assert len(reasons) > 70
    for reason in reasons:
        pieces = re.split(r"[.]{3}|[,;:'] ?", messages.words(reason))
        starts = [piece.strip()[at:] for piece in pieces
                  for at in (0, *(found.end() for found in re.finditer(" ", piece.strip())))]
        assert OTHERS_SAY.search(reason) or any(
            start[:12] in sources for start in starts if len(start) > 11), reason


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("call, fits", [
    ("kaws__err_log(h, KAWS__LOG_CLOCK, 300L, \"behind\")", True),
    ("kaws__err_log(h, KAWS__LOG_CLOCK, \"behind\", 300L)", False),
    ("plug__lines_say(l, \"\", PLUG__LOG_WAITS, 30, \"\", \"why\")", True),
    ("plug__lines_say(l, \"\", PLUG__LOG_WAITS, 30, \"\")", False)])
def test_the_compiler_checks_what_a_line_is_given(compiler, call, fits):
    source = ('#include "keyring_aws_plugin.c"\nvoid see(kaws_hooks *, plug__lines *);\n'
              f"void see(kaws_hooks *h, plug__lines *l) {{ (void)h, (void)l, {call}; }}\n")
    done = subprocess.run([compiler, "-std=c99", *WARNINGS, "-fsyntax-only", "-xc", "-"], cwd=TOP,
                          input=source, capture_output=True, text=True)
    assert (done.returncode == 0) == fits, done.stderr
    assert ("-Wformat" in done.stderr or "-Werror=format" in done.stderr) == (not fits)
