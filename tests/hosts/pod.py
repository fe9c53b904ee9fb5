#!/usr/bin/python3
"""docker and kubectl, as far as the quick start needs them, for clean machines (machine.py).

    pod.py docker login|build|push ...      build: runs the last stage of the Dockerfile
    pod.py kubectl apply|create|delete|describe|exec|get|logs|rollout ...
    pod.py associate --cluster-name NAME ...    as `aws eks create-pod-identity-association`

There is no container engine here and no cluster, but one machine.  So the machine's own system is
the image: the official one's user, my.cnf and entry script, and then what the Dockerfile's last
stage says, with a `keyring_aws.so` that `make` builds.  Its pod is made as the manifest says: the
container's user and groups, no capabilities, no new privileges, a root that is read only, volumes
in a mount namespace of its own, the environment, and what EKS adds for Pod Identity.  What the
manifest says beyond that, such as probes, is not looked at.
"""

import base64
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import yaml

STATE, ROOT, LOG = Path("/srv/objects"), Path("/srv/root"), Path("/srv/log")
VOLUMES, PID = Path("/srv/volumes"), Path("/srv/pid")
TOKEN = "/run/secrets/pods.eks.amazonaws.com/serviceaccount/eks-pod-identity-token"
MY_CNF = """\
[mysqld]
datadir = /var/lib/mysql
socket = /var/run/mysqld/mysqld.sock
secure-file-priv = /var/lib/mysql-files
user = mysql
pid-file = /var/run/mysqld/mysqld.pid
[client]
socket = /var/run/mysqld/mysqld.sock
!includedir /etc/mysql/conf.d/
"""
# What the official image's entry script does, in short.
ENTRY = """\
set -e
if [ ! -d /var/lib/mysql/mysql ]; then
    "$@" --initialize-insecure
    "$@" --skip-networking --socket=/tmp/first.sock & first=$!
    until mysql -u root --socket=/tmp/first.sock -e "ALTER USER root@localhost
        IDENTIFIED BY '$MYSQL_ROOT_PASSWORD'"; do kill -0 $first; sleep 0.2; done 2> /dev/null
    kill $first && wait $first
fi
exec "$@"
"""


def run(*argv: object) -> None:
    subprocess.run(list(map(str, argv)), check=True)


# ---- docker --------------------------------------------------------------------------------------

def docker(verb: str, *words: str) -> None:
    if verb == "login":
        assert sys.stdin.read().strip(), "no password"
    elif verb == "build":
        build(Path(words[words.index("-f") + 1]))
    elif verb != "push":
        sys.exit(f"docker {verb} is not played")


def stage(dockerfile: Path) -> list[list[str]]:
    """The instructions of the last stage, split as a shell does it."""
    text = dockerfile.read_text().replace("\\\n", " ")
    last = re.split(r"(?m)^FROM ", text)[-1].splitlines()[1:]
    return [line.split(maxsplit=1) for line in last if line and not line.startswith("#")]


def build(dockerfile: Path) -> None:
    for command in ("usermod -o -u 999 mysql", "groupmod -o -g 999 mysql", "make",
                    "rm -rf /etc/mysql/my.cnf /etc/mysql/conf.d/mysqld.cnf /var/lib/mysql",
                    "install -d -o mysql -g mysql /var/lib/mysql /var/lib/mysql-files"
                    " /run/mysqld", "mkdir -p /usr/lib64",
                    "ln -sfn /usr/lib/mysql /usr/lib64/mysql", "chown mysql: /var/lib/mysql-files"):
        run(*command.split())
    Path("/etc/my.cnf").write_text(MY_CNF)
    for word, rest in stage(dockerfile):
        if word == "RUN":
            run("sh", "-ec", rest)
        elif word == "COPY":
            options = [each for each in shlex.split(rest) if each.startswith("--")]
            source, target = [each for each in shlex.split(rest) if not each.startswith("--")]
            if "--from=compiled" in options:
                source = f"build/{Path(source).name}"
            modes = [each.partition("=")[2] for each in options if each.startswith("--chmod=")]
            run("install", "-m", *modes, source, target)
        else:
            sys.exit(f"{word} is not played")


# ---- kubectl -------------------------------------------------------------------------------------

def objects() -> dict[str, dict]:
    return json.loads(STATE.read_text()) if STATE.exists() else {}


def remember(*made: dict) -> None:
    STATE.write_text(json.dumps(objects() | {
        f"{each['kind']}/{each['metadata']['name']}": each for each in made}))
    for each in made:
        print(f"{each['kind'].lower()}/{each['metadata']['name']} configured")


def kubectl(verb: str, *words: str) -> int:
    options = {"apply": apply, "create": create, "delete": delete, "describe": describe,
               "exec": execute, "get": get, "logs": logs, "rollout": rollout}
    return options[verb](list(words)) or 0


def apply(words: list[str]) -> None:
    name = words[words.index("-f") + 1]
    with sys.stdin if name == "-" else open(name, encoding="utf-8") as file:
        remember(*(each for each in yaml.safe_load_all(file) if each))


def create(words: list[str]) -> None:
    kind, _, name, space, namespace, literal = words
    assert (kind, space, namespace) == ("secret", "-n", "db"), words
    assert f"Namespace/{namespace}" in objects(), "no such namespace"
    if f"Secret/{name}" in objects():
        sys.exit(f'Error from server (AlreadyExists): secrets "{name}" already exists')
    key, _, value = literal.removeprefix("--from-literal=").partition("=")
    remember({"kind": "Secret", "metadata": {"name": name}, "data": {key: value}})


def delete(words: list[str]) -> None:
    """The stateful set makes it again."""
    assert words == ["pod", "-n", "db", "mysql-0"], words
    stop()
    start()


def describe(words: list[str]) -> None:
    assert words == ["pod", "-n", "db", "mysql-0"], words
    print(f"Name: mysql-0\nStatus: {'Running' if running() else 'Pending'}")


def get(words: list[str]) -> None:
    assert words == ["storageclass"], words
    print("NAME            PROVISIONER\nauto (default)  ebs.csi.aws.com")


def rollout(words: list[str]) -> None:
    if words[0] == "restart":
        stop()
    elif not running():
        start()
    else:
        print("1 pod is up to date")


def running() -> int:
    try:
        pid = int(PID.read_text())
        os.kill(pid, 0)
        return pid
    except (OSError, ValueError):
        return 0


def stop() -> None:
    pid = running()
    if pid:
        os.kill(pid, signal.SIGTERM)
    while running():
        time.sleep(0.05)


def pod() -> dict:
    """The pod's specification."""
    return objects()["StatefulSet/mysql"]["spec"]["template"]["spec"]


def environment(container: dict) -> dict[str, str]:
    """The container's, with what EKS adds."""
    env = {"PATH": os.environ["PATH"], "AWS_REGION": "eu-west-1",
           "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
           "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": TOKEN}
    for each in container.get("env", []):
        source = each.get("valueFrom", {}).get("secretKeyRef")
        env[each["name"]] = (objects()[f"Secret/{source['name']}"]["data"][source["key"]]
                             if source else each["value"])
    return env


def as_user(spec: dict, container: dict) -> list[str]:
    """The command that becomes the container's user."""
    user, box = spec["securityContext"], container["securityContext"]
    assert user["runAsNonRoot"] and user["runAsUser"]
    return ["setpriv", f"--reuid={user['runAsUser']}", f"--regid={user['runAsGroup']}",
            f"--groups={user['fsGroup']}",
            *([] if box["allowPrivilegeEscalation"] else ["--no-new-privs"]),
            *(["--bounding-set=-all", "--inh-caps=-all"]
              if box["capabilities"]["drop"] == ["ALL"] else [])]


def volume(spec: dict, mount: dict, group: int) -> Path:
    """The folder to mount: kept for claims, filled for config maps."""
    name = mount["name"]
    claims = objects()["StatefulSet/mysql"]["spec"].get("volumeClaimTemplates", [])
    place = VOLUMES / name
    found = next((each for each in spec["volumes"] if each["name"] == name), None)
    if found is None and name not in [each["metadata"]["name"] for each in claims]:
        sys.exit(f"there is no volume {name}")
    if found:
        shutil.rmtree(place, ignore_errors=True)
    place = place / mount.get("subPath", "")
    place.mkdir(parents=True, exist_ok=True)
    run("chgrp", group, place)
    place.chmod(0o2777 if found and "emptyDir" in found else 0o2775)
    if found and "configMap" in found:          # as the kubelet does it, with a link
        (place / "..data").symlink_to("..2026")
        (place / "..2026").mkdir(mode=0o2755)
        for file, text in objects()[f"ConfigMap/{found['configMap']['name']}"]["data"].items():
            (place / "..2026" / file).write_text(text)
            (place / file).symlink_to(f"..data/{file}")
    return place


def give_token(spec: dict) -> None:
    """EKS mounts a token of the service account, which the pod's user can read."""
    account = spec["serviceAccountName"]
    assert f"ServiceAccount/{account}" in objects(), "no such service account"
    claims = json.dumps({"sub": f"system:serviceaccount:db:{account}"}).encode()
    Path(TOKEN).parent.mkdir(parents=True, exist_ok=True)
    Path(TOKEN).write_text(f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.x")


def start() -> None:
    """Makes the pod in a mount namespace of its own, and waits until it answers."""
    spec = pod()
    container, = spec["containers"]
    group = spec["securityContext"]["fsGroup"]
    give_token(spec)
    ROOT.mkdir(exist_ok=True)
    lines = [f"mount --rbind / {ROOT}"]
    if container["securityContext"]["readOnlyRootFilesystem"]:
        lines.append(f"mount -o remount,bind,ro {ROOT}")
    for mount in container["volumeMounts"]:
        target = os.path.realpath(mount["mountPath"])
        Path(target).mkdir(parents=True, exist_ok=True)     # as the engine does it
        source = volume(spec, mount, group)
        lines.append(f"mount --bind {source} {ROOT}{target}")
        if mount.get("readOnly"):
            lines.append(f"mount -o remount,bind,ro {ROOT}{target}")
    inner = [*as_user(spec, container), "bash", "-c", ENTRY, "entry", *container["args"]]
    lines.append(f"exec chroot {ROOT} {shlex.join(inner)}")
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-ec", "\n".join(lines)], env=environment(container),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/")
    PID.write_text(str(process.pid))
    end = time.monotonic() + 300
    while time.monotonic() < end and process.poll() is None:
        try:
            with socket.create_connection(("127.0.0.1", 3306), 1) as client:
                if client.recv(1):
                    print("1 pod is ready")
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit("the pod is not ready: " + LOG.read_text(errors="replace")[-2000:])


def execute(words: list[str]) -> int:
    assert words[:4] == ["-n", "db", "mysql-0", "--"] and running(), words
    spec = pod()
    container, = spec["containers"]
    return subprocess.call(["nsenter", "-t", str(running()), "-m", "-r", "-w",
                            *as_user(spec, container), *words[4:]], env=environment(container))


def logs(_: list[str]) -> None:
    print(LOG.read_text(errors="replace"))


# ---- aws eks ------------------------------------------------------------------------------------

def associate(*words: str) -> None:
    """The call that Debian's AWS CLI is too old to make."""
    given = dict(zip(words[::2], words[1::2]))
    call = {"namespace": given["--namespace"], "serviceAccount": given["--service-account"],
            "roleArn": given["--role-arn"]}
    url = (f"https://eks.{os.environ['AWS_REGION']}.amazonaws.com/clusters/"
           f"{given['--cluster-name']}/pod-identity-associations")
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(call).encode(), {
            "Content-Type": "application/json"})) as reply:
        print(reply.read().decode())


if __name__ == "__main__":
    players = {"docker": docker, "kubectl": kubectl, "associate": associate}
    sys.exit(players[sys.argv[1]](*sys.argv[2:]))
