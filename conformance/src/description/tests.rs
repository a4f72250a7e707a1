use std::collections::BTreeSet;

use super::keys::{KEYS, schema};
use super::*;

fn faults(text: &str) -> Vec<Fault> {
    Description::parse(text, Path::new("/there")).expect_err(text)
}

#[test]
fn our_own_file_has_no_fault_and_names_every_key_that_has_a_value() {
    let own = Description::parse(OWN, Path::new("")).expect("no fault");
    assert_eq!(own, *Description::own());
    let said = read::read(OWN);
    let path = |key: &keys::Key| {
        if key.section.is_empty() { key.name.to_owned() } else { format!("{}.{}", key.section, key.name) }
    };
    let left_out: Vec<String> = KEYS.iter().map(path).filter(|path| said.line(path).is_none()).collect();
    assert_eq!(left_out, ["launch.restart", "http.form_field"]);
}

#[test]
fn what_a_file_leaves_out_is_as_the_contract_says_but_nothing_of_ours_is_run() {
    let other = Description::parse("", Path::new("/there")).expect("an empty file is valid");
    let own = Description::own();
    assert_eq!((&other.containers, &other.speech, &other.limits), (&own.containers, &own.speech, &own.limits));
    assert_eq!((other.launch.program.clone(), &other.images), (None, &Images::default()));
    assert!(other.launch.arguments(Act::Serve).expect_err("none").contains("launch.serve"));
    assert!(other.launch.settings_file(Path::new("/x")).expect_err("none").contains("launch.settings_file"));
}

#[test]
fn every_key_is_read() {
    let text = r#"
        name = "Other"
        [launch]
        program = "bin/other"
        serve = ["-B", "{here}/main", "--addr-file={addr_file}"]
        restart = ["again", "{addr_file}"]
        settings_file = ["-c", "{file}"]
        stop_signal = "INT"
        [settings_file]
        LOG_LEVEL = "log.level"
        [settings]
        BIND_ADDR = "LISTEN"
        AUDIT_LOG = ""
        [environment]
        LANG = "C"
        [images]
        workspace = "theirs:1"
        [containers]
        name = "room-{workspace}"
        sockets = "/run/s"
        bridge = "127.0.0.1:3128"
        listener = "agent"
        [http]
        key_header = "Authorization"
        key_scheme = "Token "
        prefix = "/v1"
        runs = "form"
        form_field = "body"
        files_field = "uploads"
        metadata_field = "paths"
        [http.routes]
        "/api/tenants" = "/customers"
        [timeouts]
        request = 2.5
        [log]
        errors = ["SEVERE"]
        [optional]
        without = ["admin"]
    "#;
    let other = Description::parse(text, Path::new("/there")).expect("no fault");
    assert_eq!(other.launch.program, Some(PathBuf::from("/there/bin/other")));
    assert_eq!(other.launch.arguments(Act::Serve).expect("there"), ["-B", "/there/main", "--addr-file={addr_file}"]);
    assert_eq!(other.launch.arguments(Act::Restart).expect("there")[0], "again");
    assert_eq!(other.launch.stop_signal, Signal::INT);
    assert_eq!((other.settings.name("BIND_ADDR"), other.settings.name("AUDIT_LOG")), (Some("LISTEN"), None));
    assert_eq!(other.images.workspace.as_deref(), Some("theirs:1"));
    assert_eq!(
        (other.containers.name("7"), other.containers.proxy()),
        ("room-7".to_owned(), "http://127.0.0.1:3128".to_owned())
    );
    assert!(other.containers.agent_listens);
    assert_eq!((&*other.speech.key_header, &*other.speech.key_scheme), ("Authorization", "Token "));
    assert_eq!(other.speech.routes.target("/api/tenants/a"), "/v1/customers/a");
    assert!(other.speech.runs_are_forms);
    let FormFields { request, files, metadata } = &other.speech.form;
    assert_eq!((&**request, &**files, &**metadata), ("body", "uploads", "paths"));
    assert_eq!(other.launch.settings_file(Path::new("/x")).expect("there"), ["-c", "/x"]);
    assert_eq!(other.settings.file(&[("LOG_LEVEL", "info".into())]), "log.level = \"info\"\n");
    assert_eq!((other.speech.request, other.speech.connect), (Duration::from_millis(2500), Duration::from_secs(5)));
    assert_eq!((other.log.errors, other.without), (vec!["SEVERE".to_owned()], vec!["admin".to_owned()]));
}

#[test]
fn every_fault_is_told_at_once_each_with_its_line_and_a_cure() {
    let text = "nam = \"x\"\n\
                [launch]\n\
                serve = [\"go\"]\n\
                stop_signal = \"SIGTERM\"\n\
                [http]\n\
                prefix = \"v1/\"\n\
                form_field = \"x\"\n\
                sockets = \"/run\"\n\
                [timeouts]\n\
                request = \"long\"\n\
                [settings]\n\
                BIND_ADR = \"A\"\n\
                STATE_DIR = \"A\"\n\
                [containrs]\n\
                [http.routes]\n\
                \"/api/admin/gc\" = \"/gc/{id}\"\n\
                [optional]\n\
                without = [\"admin\"]\n";
    let told = faults(text);
    let wanted = [
        (1, "write name"),
        (3, "add program"),
        (4, "\"TERM\", \"INT\""),
        (6, "begin with a slash"),
        (7, "runs = \"form\""),
        (8, "it belongs to [containers]"),
        (10, "give seconds"),
        (12, "write BIND_ADDR"),
        (13, "give each a name of its own"),
        (14, "write containers"),
        (16, "the same names in braces"),
        (16, "which optional.without says is missing"),
    ];
    assert_eq!(told.iter().map(|fault| fault.line).collect::<Vec<_>>(), wanted.map(|(line, _)| line), "{told:#?}");
    for (line, cure) in wanted {
        assert!(told.iter().any(|fault| fault.line == line && fault.what.contains(cure)), "{line}: {cure}: {told:#?}");
    }
}

#[test]
fn contradictions_are_faults() {
    for (text, line, cure) in [
        ("[launch]\nprogram = \"x\"", 2, "add serve"),
        ("[launch]\nprogram = \"x\"\nserve = [\"{port}\"]", 3, "{addr_file}, {address} and {here}"),
        ("[launch]\nprogram = \"x\"\nserve = [\"{addr_file}\", \"{address}\"]", 3, "remove one"),
        ("[launch]\nprogram = \"x\"\nserve = [\"{addr_file}\"]\nrestart = [\"x\"]", 4, "or neither"),
        ("[containers]\nname = \"all\"", 2, "put {workspace}"),
        ("[containers]\ndeployment_label = \"a\"\nworkspace_label = \"a\"", 3, "give each its own"),
        ("[containers]\nsockets = \"run\"", 2, "absolute path"),
        ("[containers]\nbridge = \"8080\"", 2, "an address and a port"),
        ("[environment]\nSTATE_DIR = \"/x\"", 2, "which the suite sets itself"),
        ("[settings]\nBIND_ADDR = \"L\"\n[environment]\nL = \"x\"", 4, "BIND_ADDR"),
        ("[http]\nkey_header = \"a b\"", 2, "the name of a header"),
        ("[http.routes]\n\"/a\" = \"/c\"\n\"/b\" = \"/c\"", 3, "from either"),
        ("[timeouts]\nconnect = 5\nrequest = 2", 3, "raise it"),
        ("[timeouts]\nrequest = 0", 2, "more than 0"),
        ("[log]\nformat = \"text\"\nlevel_field = \"l\"", 3, "remove one"),
        ("[launch]\nprogram = \"p\"\nserve = [\"s\"]\nsettings_file = [\"-c\"]", 4, "put {file}"),
        ("[settings_file]\nLOG_LEVL = \"x\"", 2, "write LOG_LEVEL"),
        ("[optional]\nwithout = [\"admins\"]", 2, "\"admin\", \"resume\" and \"files\" are"),
        ("name = 7", 1, "not empty"),
        ("http = 7", 1, "[http]"),
    ] {
        let told = faults(text);
        assert_eq!(told.len(), 1, "{text}: {told:#?}");
        assert!(told[0].line == line && told[0].what.contains(cure), "{text}: {told:#?}");
    }
}

#[test]
fn a_file_that_is_no_toml_is_told_with_its_other_faults() {
    let told = faults("name = \n[http]\nprefx = \"/a\"\nruns = \"xml\"\nruns = \"json\"\n");
    for (line, what) in [(1, "TOML"), (3, "write prefix"), (5, "remove one")] {
        assert!(told.iter().any(|fault| fault.line == line && fault.what.contains(what)), "{line} {what}: {told:#?}");
    }
}

#[test]
fn a_file_is_told_with_its_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("t.toml");
    std::fs::write(&path, "a = 1\nb = 2\n").expect("written");
    let text = Description::load(&path).expect_err("two faults").to_string();
    assert!(text.contains("2 things are wrong") && text.contains("t.toml:2: b is no key"), "{text}");
    let text = Description::load(&dir.path().join("none")).expect_err("no file").to_string();
    assert!(text.contains("--target-file") && text.contains("No such file"), "{text}");
}

#[test]
fn the_published_schema_is_that_of_the_parser() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/contract/schema/target.schema.json");
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    let ours = format!("{:#}\n", schema());
    assert!(published == ours, "{}: nagaya-conformance describe --schema -o {0}", path.display());
}

#[test]
fn keys_are_declared_once_and_are_words() {
    let all: BTreeSet<_> = KEYS.iter().map(|key| (key.section, key.name)).collect();
    assert_eq!(all.len(), KEYS.len());
    let short: Vec<_> = KEYS.iter().filter(|key| key.about.split(' ').count() < 4).map(|key| key.name).collect();
    assert!(short.is_empty(), "too short: {short:?}");
}
