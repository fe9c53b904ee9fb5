"""Each file in tests/package/examples is read by what reads it in earnest, or by what is nearest.

A check takes the folder of examples, and raises an error if its file is wrong.  MISTAKES are put
into copies of the files, and each must be found.  What the files do is tried in
test_examples_run.py.
"""

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import kms_emulator             # says where botocore is
import botocore.session
import kubernetes.client
from manual import MANUAL, README, blocks
from servers import Moto, clean_environment, run_in_tree, tree

assert kms_emulator
TOP = Path(__file__).resolve().parent.parent
EXAMPLES = TOP / "tests/package/examples"
ACCOUNT = "123456789012"                # moto's
ADMINISTRATORS = [f"arn:aws:iam::{ACCOUNT}:role/admin", f"arn:aws:iam::{ACCOUNT}:user/eve"]
KEYRING = "/var/lib/mysql-keyring"


def tool(program: str, *args: object, cwd: Path | None = None) -> str:
    """What a program of the tree prints; an error if it fails."""
    argv, env = run_in_tree(program, *map(str, args))
    done = subprocess.run(argv, env=env, cwd=cwd, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def is_in_the_manual(folder: Path, name: str) -> None:
    """A block of the manual has the same lines, or the shell command that writes them."""
    text = re.sub(r"(?m)^#.*\n", "", (folder / name).read_text()).strip()
    shown = [re.sub(r"(?m)^ {3}", "", block).strip() for _, block in blocks()]
    shown += [block for _, block in blocks()] + re.findall(r"echo '(\{.*\})' >", MANUAL)
    assert text in shown, f"{name} differs from the manual's"


# ---- AWS ---------------------------------------------------------------------------------------

class Cloud:
    """moto, and Debian's aws CLI."""

    def __init__(self):
        tree(["examples"])                  # with what moto's CloudFormation needs
        self.moto = Moto("eu-west-1")
        self.env = clean_environment({
            "AWS_ACCESS_KEY_ID": self.moto.access_key_id, "HOME": "/nonexistent", "AWS_PAGER": "",
            "AWS_SECRET_ACCESS_KEY": self.moto.secret, "AWS_DEFAULT_REGION": "eu-west-1"})
        self.aws("iam", "create-role", "--role-name", "any", "--assume-role-policy-document",
                 (EXAMPLES / "trust-ec2.json").read_text())

    def aws(self, *args: str) -> dict:
        done = subprocess.run(["aws", "--endpoint-url", self.moto.url, *args], env=self.env,
                              text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"aws {' '.join(args)}: {done.stderr}"
        return json.loads(done.stdout or "{}")


CLOUD: list[Cloud] = []                 # the checks share one
NUMBERS = itertools.count()             # for names that are not there yet


@pytest.fixture(scope="module", autouse=True)
def cloud():
    CLOUD.append(Cloud())
    yield
    CLOUD.pop().moto.stop()


def actions_of_kms() -> set[str]:
    """What a policy may allow: the operations of KMS, and the two halves of ReEncrypt."""
    model = botocore.session.Session().get_service_model("kms")
    return {f"kms:{name}" for name in model.operation_names} - {"kms:ReEncrypt"} | {
        "kms:ReEncryptFrom", "kms:ReEncryptTo"}


def allowed(policy: dict) -> set[str]:
    listed = [each["Action"] for each in policy["Statement"]]
    return {action for each in listed for action in ([each] if isinstance(each, str) else each)}


def check_policy(folder: Path) -> None:
    text = (folder / "policy.json").read_text()
    policy = json.loads(text.replace("KEY", "arn:aws:kms:x:1:key/2"))
    assert allowed(policy) <= actions_of_kms()
    CLOUD[0].aws("iam", "put-role-policy", "--role-name", "any", "--policy-name", "keyring",
                 "--policy-document", json.dumps(policy))
    is_in_the_manual(folder, "policy.json")


def check_trust(folder: Path, name: str) -> None:
    CLOUD[0].aws("iam", "update-assume-role-policy", "--role-name", "any", "--policy-document",
                 (folder / name).read_text())
    is_in_the_manual(folder, name)


CRYPTOGRAPHIC = {"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
                 "ReEncryptFrom", "ReEncryptTo", "GenerateMac", "Sign", "CreateGrant"}


def check_key_policy(administer: set[str], use: set[str], folder: Path) -> None:
    """Who manages the key cannot use it, and who uses it cannot manage it."""
    assert administer | use <= actions_of_kms()
    assert not administer & {f"kms:{action}" for action in CRYPTOGRAPHIC} and not administer & use
    assert {"kms:PutKeyPolicy", "kms:GetKeyPolicy"} <= administer, "AWS would refuse it"
    assert use == allowed(json.loads((folder / "policy.json").read_text()))


def test_the_manual_s_deploy_command(folder):
    """As it stands in the manual, in the folder of the examples."""
    (block,) = [block for _, block in blocks() if "aws cloudformation deploy" in block]
    commands = block.replace("aws ", f"aws --endpoint-url {CLOUD[0].moto.url} ").partition(
        "terraform ")[0]
    done = subprocess.run(["sh", "-euc", commands], env=CLOUD[0].env, cwd=folder, text=True,
                          capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (key,) = [each["TargetKeyId"] for each in CLOUD[0].aws("kms", "list-aliases")["Aliases"]
              if each["AliasName"] == "alias/mysql"]
    policy = CLOUD[0].aws("kms", "get-key-policy", "--key-id", key, "--policy-name", "default")
    (admin,) = policy["Policy"]["Statement"][0]["Principal"]["AWS"]
    assert admin == CLOUD[0].aws("sts", "get-caller-identity")["Arn"]


def check_cloudformation(folder: Path) -> None:
    """moto makes what it says: the same policies as the JSON files', and a key that rotates."""
    aws, name, stack = CLOUD[0].aws, f"db{next(NUMBERS)}", f"stack{next(NUMBERS)}"
    assert "    DeletionPolicy: Retain\n" in (folder / "cloudformation.yaml").read_text()
    aws("cloudformation", "create-stack", "--stack-name", stack, "--capabilities",
        "CAPABILITY_NAMED_IAM", "--template-body", (folder / "cloudformation.yaml").read_text(),
        "--parameters", json.dumps([
            {"ParameterKey": "Administrators", "ParameterValue": ",".join(ADMINISTRATORS)},
            {"ParameterKey": "Name", "ParameterValue": name}]))
    try:
        check_stack(aws, aws("cloudformation", "describe-stacks", "--stack-name", stack), name,
                    folder)
    finally:
        aws("cloudformation", "delete-stack", "--stack-name", stack)


def check_stack(aws, told: dict, name: str, folder: Path) -> None:
    assert told["Stacks"][0]["StackStatus"] == "CREATE_COMPLETE"
    given = {each["OutputKey"]: each["OutputValue"] for each in told["Stacks"][0]["Outputs"]}
    key = given["KeyArn"]
    (alias,) = aws("kms", "list-aliases", "--key-id", key)["Aliases"]
    assert alias["AliasName"] == f"alias/{name}"
    assert aws("kms", "get-key-rotation-status", "--key-id", key)["KeyRotationEnabled"]
    role = aws("iam", "get-role", "--role-name", name)["Role"]
    assert role["AssumeRolePolicyDocument"] == json.loads((folder / "trust-ec2.json").read_text())
    policy = aws("iam", "get-role-policy", "--role-name", name, "--policy-name", "keyring")
    assert policy["PolicyDocument"] == json.loads(
        (folder / "policy.json").read_text().replace("KEY", key))
    profile = aws("iam", "get-instance-profile", "--instance-profile-name",
                  given["InstanceProfile"])["InstanceProfile"]
    assert [each["Arn"] for each in profile["Roles"]] == [role["Arn"]]
    policy = aws("kms", "get-key-policy", "--key-id", key, "--policy-name", "default")["Policy"]
    administration, use = policy["Statement"]           # moto has it as it was in the template
    assert administration["Principal"]["AWS"] == ADMINISTRATORS
    assert use["Principal"]["AWS"] == f"arn:aws:iam::{ACCOUNT}:root"
    assert use["Condition"] == {"ArnEquals": {"aws:PrincipalArn": role["Arn"]}}
    check_key_policy(set(administration["Action"]), set(use["Action"]), folder)


def check_terraform(folder: Path) -> None:
    """By HashiCorp's own parser, which does not know the AWS provider's arguments. So names are
    compared here, and the key policy is that of cloudformation.yaml."""
    told = json.loads(tool("terraform-config-inspect", "--json", folder))
    assert "diagnostics" not in told, told["diagnostics"]
    assert set(told["managed_resources"]) == {
        "aws_kms_key.mysql", "aws_kms_alias.mysql", "aws_iam_role.mysql",
        "aws_iam_role_policy.keyring", "aws_iam_instance_profile.mysql"}
    assert set(told["outputs"]) == {"key_arn", "instance_profile"}
    assert told["required_providers"]["aws"]["source"] == "hashicorp/aws"
    text = re.sub(r"(?m)^ *#.*", "", (folder / "main.tf").read_text())
    data = set(told["data_resources"])
    known = {f"var.{name}" for name in told["variables"]} | data | set(told["managed_resources"])
    (own,) = re.findall(r"(?ms)^locals \{\n(.*?)^\}", text)
    known |= {f"local.{name}" for name in re.findall(r"(?m)^  (\w+) *=", own)}
    used = set(re.findall(r"\b((?:data\.aws_\w+|(?<!data\.)aws_\w+|var|local)\.\w+)", text))
    assert used - known == set() and known - used - {
        "aws_kms_alias.mysql", "aws_iam_role_policy.keyring"} == set()
    assert re.search(r'(?s)"aws_kms_key" "mysql" \{(?:(?!\n\}).)*prevent_destroy = true', text)
    for name in re.findall(r'file\("\$\{path\.module\}/(.*?)"\)', text):
        json.loads((folder / name).read_text())
    administer, use = (set(re.findall(r'"(kms:\w+)"', part)) for part in re.findall(
        r"(?s) Action = \[(.*?)\]", text))
    check_key_policy(administer, use, folder)
    template = (folder / "cloudformation.yaml").read_text().partition("Alias:\n    Type")[0]
    assert administer | use == set(re.findall(r"- (kms:\w+)$", template, re.M))


# ---- the server and its machine ----------------------------------------------------------------

def check_settings(folder: Path) -> None:
    is_in_the_manual(folder, "component_keyring_aws.cnf")
    assert json.loads((folder / "component_keyring_aws.cnf").read_text())["data_file"].startswith(
        KEYRING)


def check_manifest(folder: Path) -> None:
    is_in_the_manual(folder, "mysqld.my")
    assert json.loads((folder / "mysqld.my").read_text()) == {
        "components": "file://component_keyring_aws"}


def check_my_cnf(folder: Path) -> None:
    """test_package.py starts a server with it."""
    is_in_the_manual(folder, "keyring_aws.cnf")


def check_systemd(folder: Path) -> None:
    units = folder / "units"
    (units / "mysql.service.d").mkdir(parents=True)
    shutil.copy(folder / "keyring_aws.service.conf", units / "mysql.service.d/keyring_aws.conf")
    (units / "mysql.service").write_text("[Service]\nExecStart=/bin/true\n")
    done = subprocess.run(["systemd-analyze", "verify", str(units / "mysql.service")], text=True,
                          capture_output=True, check=False, env=clean_environment(
                              {"SYSTEMD_UNIT_PATH": f"{units}:/lib/systemd/system"}))
    said = [line for line in done.stderr.splitlines() if "keyring_aws" in line or "mysql" in line]
    assert done.returncode == 0 and not said, done.stderr
    text = (folder / "keyring_aws.service.conf").read_text()
    assert re.search(rf"(?m)^ReadWritePaths={KEYRING} ", text)
    assert f"RequiresMountsFor={KEYRING}\n" in text


# What /etc/apparmor.d/usr.sbin.mysqld does: it includes the local file.
PROFILE = """#include <tunables/global>
/usr/sbin/mysqld {{
  #include <abstractions/base>
  #include <abstractions/nameservice>
  /usr/sbin/mysqld mr,
  #include "{}"
}}
"""


def check_apparmor(folder: Path) -> None:
    """Compiled into a whole profile, for no kernel."""
    (folder / "profile").write_text(PROFILE.format(folder / "apparmor"))
    done = subprocess.run(["apparmor_parser", "--skip-kernel-load", "--skip-cache",
                           folder / "profile"], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    rules = (folder / "apparmor").read_text()
    for path in (f"{KEYRING}/\\*\\*  rwk", "/usr/sbin/mysqld.my +r", "/usr/lib/mysql/plugin/.* r"):
        assert re.search(rf"(?m)^{path},$", rules), path
    is_in_the_manual(folder, "apparmor")


def module(folder: Path) -> Path:
    """The SELinux module, by the commands of the manual."""
    (section,) = [block for _, block in blocks() if "checkmodule" in block]
    for command in re.findall(r"(?m)^(?:checkmodule|semodule_package) .*", section):
        program, *args = command.split()
        tool(program, *args, cwd=folder)
    return folder / "keyring_aws.pp"


def check_selinux(folder: Path) -> None:
    """Compiled, and linked with the policy of Debian's, whose types and classes it must know."""
    made, policy = module(folder), tree(["examples"]) / "usr/share/selinux/default"
    for name in ("base", "mysql"):
        (folder / f"{name}.pp").write_bytes(
            subprocess.run(["bzip2", "-dc", policy / f"{name}.pp.bz2"], check=True,
                           capture_output=True).stdout)
    tool("semodule_link", "-o", folder / "linked", folder / "base.pp", folder / "mysql.pp", made)
    tool("semodule_expand", folder / "linked", folder / "policy")
    shutil.copy(folder / "keyring_aws.fc", folder / "contexts")
    tool("sefcontext_compile", "-p", folder / "policy", "-o", folder / "compiled",
         folder / "contexts")
    path, context = (folder / "keyring_aws.fc").read_text().split()
    assert re.fullmatch(path, KEYRING) and re.fullmatch(path, f"{KEYRING}/keyring_aws_data")
    assert context == "system_u:object_r:mysqld_db_t:s0"


# ---- containers --------------------------------------------------------------------------------

Stage = tuple[str, str, list[tuple[str, str]]]      # image, name, instructions


def stages(text: str) -> list[Stage]:
    """A Dockerfile's stages: a small reader, of the instructions that ours has."""
    text = re.sub(r"(?m)^#.*\n", "", text).replace("\\\n", " ")
    made: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        rest = " ".join(rest.split())
        assert word in ("FROM", "WORKDIR", "RUN", "COPY"), line
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            made.append((image, name, []))
        else:
            made[-1][2].append((word, rest))
    return made


def copied(rest: str) -> tuple[dict[str, str], list[str], str]:
    """A COPY: its options, what, and where."""
    words = rest.split()
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *what, where = [word for word in words if not word.startswith("--")]
    return options, what, where


def check_dockerfile(folder: Path) -> None:
    """What is copied is there. The commands are run in test_examples_run.py."""
    made = stages((folder / "Dockerfile").read_text())
    assert [image.split(":")[0] for image, *_ in made] == ["debian", "oraclelinux", "mysql"]
    names = [name for _, name, _ in made]
    for number, (_, _, instructions) in enumerate(made):
        for word, rest in instructions:
            if word == "COPY":
                options, what, _ = copied(rest)
                if "from" in options:
                    assert options["from"] in names[:number], rest
                else:
                    assert all((TOP / each).exists() for each in what), rest
    final = "\n".join(rest for _, rest in made[-1][2])
    assert f"-m 750 {KEYRING}" in final and "tests/package/examples/mysqld.my /usr/sbin/" in final


def strict(value: object, kind: str, where: str) -> None:
    """A value has the form that Kubernetes's own API description has for it."""
    if found := re.fullmatch(r"list\[(.*)\]", kind):
        assert isinstance(value, list), where
        for number, each in enumerate(value):
            strict(each, found[1], f"{where}[{number}]")
    elif found := re.fullmatch(r"dict\(str, (.*)\)", kind):
        assert isinstance(value, dict), where
        for name, each in value.items():
            strict(each, found[1], f"{where}.{name}")
    elif kind != "object":
        simple = {"str": str, "int": int, "bool": bool}
        if kind in simple:
            assert type(value) is simple[kind], f"{where} is no {kind}: {value!r}"
            return
        model = getattr(kubernetes.client, kind)
        names = {own: name for name, own in model.attribute_map.items()}
        assert isinstance(value, dict) and set(value) <= set(names), f"{where}: {value}"
        model(**{names[each]: inner for each, inner in value.items()})      # are all there?
        for each, inner in value.items():
            strict(inner, model.openapi_types[names[each]], f"{where}.{each}")


KINDS = {"Namespace": "V1Namespace", "ServiceAccount": "V1ServiceAccount", "Service": "V1Service",
         "ConfigMap": "V1ConfigMap", "StatefulSet": "V1StatefulSet"}


def manifest(folder: Path) -> dict[str, dict]:
    text = (folder / "kubernetes.yaml").read_text()
    found = [each for each in yaml.safe_load_all(text) if each]
    assert len({each["kind"] for each in found}) == len(found) == len(KINDS)
    return {each["kind"]: each for each in found}


def check_kubernetes(folder: Path) -> None:
    objects = manifest(folder)
    for kind, each in objects.items():
        try:
            strict(each, KINDS[kind], kind)
        except (ValueError, TypeError) as error:
            raise AssertionError(f"{kind}: {error}") from error
        api = "apps/v1" if kind == "StatefulSet" else "v1"
        assert each["apiVersion"] == api and (kind == "Namespace" or
                                              each["metadata"]["namespace"] == "db")
    check_pod(objects, folder)


def check_pod(objects: dict[str, dict], folder: Path) -> None:
    """All that it names is there, and is where the Dockerfile and the settings say."""
    state, config = objects["StatefulSet"]["spec"], objects["ConfigMap"]
    pod = state["template"]["spec"]
    (container,) = pod["containers"]
    labels = state["template"]["metadata"]["labels"]
    assert state["selector"]["matchLabels"] == objects["Service"]["spec"]["selector"] == labels
    assert state["serviceName"] == objects["Service"]["metadata"]["name"]
    assert pod["serviceAccountName"] == objects["ServiceAccount"]["metadata"]["name"] == "mysql"
    assert objects["Namespace"]["metadata"]["name"] == "db"
    claimed = {each["metadata"]["name"] for each in state["volumeClaimTemplates"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = {each["mountPath"]: each for each in container["volumeMounts"]}
    assert claimed | set(volumes) == {each["name"] for each in mounts.values()}
    assert mounts["/var/lib/mysql"]["name"] in claimed and mounts[KEYRING]["name"] in claimed
    assert {"/tmp", "/var/run/mysqld"} <= set(mounts), "the root is read-only"
    ((file, text),) = config["data"].items()
    assert json.loads(text)["data_file"] == f"{KEYRING}/keyring_aws_data"
    docker = (folder / "Dockerfile").read_text()
    place = re.search(rf"ln -sf? (\S+)/{re.escape(file)} /usr/lib64/mysql/plugin/\n", docker)[1]
    assert "subPath" not in mounts[place] and mounts[place]["readOnly"]
    assert volumes[mounts[place]["name"]]["configMap"]["name"] == config["metadata"]["name"]
    assert f"-t {container['image']} " in docker
    header = "".join(re.findall(r"(?m)^# .*\n", (folder / "kubernetes.yaml").read_text()))
    secret = container["env"][0]["valueFrom"]["secretKeyRef"]
    assert f"secret generic {secret['name']} --namespace db --from-literal={secret['key']}=" \
        in header
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["fsGroup"] == 999
    own = container["securityContext"]
    assert own["readOnlyRootFilesystem"] and own["allowPrivilegeEscalation"] is False
    assert own["capabilities"] == {"drop": ["ALL"]}


# ---- all of them -------------------------------------------------------------------------------

CHECKS = {
    "policy.json": check_policy,
    **{path.name: lambda folder, name=path.name: check_trust(folder, name)
       for path in EXAMPLES.glob("trust-*.json")},
    "main.tf": check_terraform, "cloudformation.yaml": check_cloudformation,
    "component_keyring_aws.cnf": check_settings, "mysqld.my": check_manifest,
    "keyring_aws.cnf": check_my_cnf, "keyring_aws.service.conf": check_systemd,
    "apparmor": check_apparmor, "keyring_aws.te": check_selinux, "keyring_aws.fc": check_selinux,
    "Dockerfile": check_dockerfile, "kubernetes.yaml": check_kubernetes,
}
MISTAKES = [                            # file, what stands there, and a mistake in its place
    ("policy.json", "kms:Encrypt", "kms:Encrpyt"), ("policy.json", "] }", "} ]"),
    ("policy.json", '"Effect"', '"Efect"'), ("trust-ec2.json", "Allow", "Alow"),
    ("trust-irsa.json", "StringEquals", "StringEqual"),
    ("trust-ecs.json", "sts:AssumeRole", "sts:AssumeRoles"),
    ("trust-pod-identity.json", "TagSession", "TagSesion"),
    ("main.tf", "aws_kms_key.mysql.arn)", "aws_kms_key.sql.arn)"),
    ("main.tf", "jsonencode({", "jsonencode({{"), ("main.tf", "trust-ec2", "trust-ec3"),
    ("main.tf", "kms:PutKeyPolicy", "kms:PutPolicy"), ("main.tf", "var.region", "var.regoin"),
    ("main.tf", '"kms:Decrypt", ', ""), ("main.tf", '"kms:DisableKey", ', ""),
    ("main.tf", "data.aws_partition.current", "data.aws_partition.here"),
    ("main.tf", "prevent_destroy = true", "prevent_destroy = false"),
    ("cloudformation.yaml", "    DeletionPolicy: Retain\n", ""),
    ("cloudformation.yaml", "EnableKeyRotation", "EnableRotation"),
    ("cloudformation.yaml", "Value: !GetAtt Key.Arn", "Value: !GetAtt Keys.Arn"),
    ("cloudformation.yaml", "kms:EncryptionContext:app", "kms:EncryptionContext:ap"),
    ("cloudformation.yaml", "  Alias:\n", "  Alias:\n  "),
    ("cloudformation.yaml", "              - kms:PutKeyPolicy\n", ""),
    ("cloudformation.yaml", "role/${Name}", "role/Name"),
    ("component_keyring_aws.cnf", "data_file", "datafile"),
    ("mysqld.my", "file://", "file:/"), ("keyring_aws.cnf", "FORCE", "FORCED"),
    ("keyring_aws.service.conf", "ProtectSystem=strict", "ProtectSystem=strickt"),
    ("keyring_aws.service.conf", "LimitMEMLOCK", "LimitMemlock"),
    ("keyring_aws.service.conf", "@system-service", "@system-services"),
    ("keyring_aws.service.conf", "[Unit]", "[Units]"),
    ("keyring_aws.service.conf", "mysql-keyring /var", "mysql_keyring /var"),
    ("apparmor", "rwk,", "rwk"), ("apparmor", "network inet stream", "network inet streams"),
    ("apparmor", "/usr/sbin/mysqld.my", "usr/sbin/mysqld.my"),
    ("keyring_aws.te", "http_port_t;", "https_port_t;"),
    ("keyring_aws.te", "type cert_t;\n", ""),
    ("keyring_aws.te", "name_connect;", "name_connects;"),
    ("keyring_aws.fc", "mysqld_db_t", "mysql_db_t"), ("keyring_aws.fc", "(/.*)?", "(/.*?"),
    ("Dockerfile", "tests/need.sh", "tests/needs.sh"),
    ("Dockerfile", "--from=source", "--from=src"),
    ("Dockerfile", "COPY", "COPPY"),
    ("kubernetes.yaml", "mountPath: /etc/mysql-keyring", "mountPath: /etc/mysql"),
    ("kubernetes.yaml", "        - name: tmp\n          emptyDir: {}\n", ""),
    ("kubernetes.yaml", "readOnlyRootFilesystem", "readOnlyRootFileSystem"),
    ("kubernetes.yaml", "            name: mysql-keyring\n", "            name: mysql\n"),
    ("kubernetes.yaml", "serviceAccountName: mysql", "serviceAccountName: sql"),
    ("kubernetes.yaml", "runAsUser: 999", "runAsUser: mysql"),
    ("kubernetes.yaml", "  serviceName: mysql\n", ""),
    ("kubernetes.yaml", "name: mysql-root", "name: mysql-rot"),
    ("kubernetes.yaml", "[\"ALL\"]", "ALL"), ("kubernetes.yaml", "\n  ports:", "\n   ports:"),
]


@pytest.fixture
def folder(tmp_path) -> Path:
    """The examples, to be changed."""
    return Path(shutil.copytree(EXAMPLES, tmp_path / "examples"))


@pytest.mark.parametrize("name", CHECKS)
def test_an_example_is_what_its_reader_reads(name, folder):
    CHECKS[name](folder)


@pytest.mark.parametrize("name, there, mistake", MISTAKES)
def test_a_mistake_in_an_example_is_found(name, there, mistake, folder):
    text = (folder / name).read_text()
    assert there in text, "this mistake cannot be made"
    (folder / name).write_text(text.replace(there, mistake))
    with pytest.raises((AssertionError, ValueError, KeyError, TypeError, OSError,
                        yaml.YAMLError)):
        CHECKS[name](folder)


def test_every_example_has_its_check_and_its_mistakes():
    """Here, or in the test file that names it."""
    others = "".join(path.read_text() for path in TOP.glob("tests/test_*.py")
                     if not path.name.startswith("test_examples"))
    missing = {path.name for path in EXAMPLES.iterdir()} - set(CHECKS)
    assert all(name in others for name in missing), missing
    assert {name for name, *_ in MISTAKES} == set(CHECKS)


def test_the_manual_names_every_example():
    text = MANUAL
    assert not [path.name for path in EXAMPLES.iterdir() if f"`{path.name}`" not in text and
                f"examples/{path.name}" not in text]
