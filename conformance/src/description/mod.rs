//! The description of a target: how it is launched, configured and asked, and what it calls things. This project's own is one such file,
//! `targets/nagaya.toml`, and is used by default. For another target the file of `--target-file` says what differs from the contract; what
//! only the target can say (its program, its images) has no default.

mod contradictions;
pub mod keys;
mod read;
pub mod routes;
pub mod settings;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rustix::process::Signal;

pub use self::read::Fault;
use self::read::Said;
use self::routes::Routes;
use self::settings::Settings;

/// The contract's name of a form's field with the request.
pub const REQUEST_FIELD: &str = "request_data";

/// This project's own description.
const OWN: &str = include_str!("../../targets/nagaya.toml");

static OURS: LazyLock<Arc<Description>> = LazyLock::new(|| {
    let said = read::read(OWN);
    Arc::new(Description::of(&said, &said, Path::new("")))
});

/// How a server is launched and told to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct Launching {
    /// Its program, if the target can be launched: a path, or the name of a program beside the suite or on the search path.
    pub program: Option<PathBuf>,
    serve: Vec<String>,
    restart: Vec<String>,
    config: Vec<String>,
    config_json: Vec<String>,
    doctor: Vec<String>,
    settings_file: Vec<String>,
    /// The signal that stops it.
    pub stop_signal: Signal,
    /// The signal after which it opens its files again; `None` if it has none.
    pub reload_signal: Option<Signal>,
    /// Name of the database in the state directory, where no other is configured.
    pub database_file: Option<String>,
}

/// Something that a server's program can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To serve.
    Serve,
    /// To serve again with the same state.
    Restart,
    /// To print its settings.
    Config,
    /// To print its settings as JSON.
    ConfigJson,
    /// To look for what would prevent a start.
    Doctor,
}

impl Launching {
    /// The arguments for this.
    ///
    /// # Errors
    /// The target's program cannot do it: which key of the target file would say how.
    pub fn arguments(&self, act: Act) -> Result<&[String], String> {
        let (arguments, key) = match act {
            Act::Serve => (&self.serve, "serve"),
            Act::Restart if self.restart.is_empty() => (&self.serve, "serve"),
            Act::Restart => (&self.restart, "restart"),
            Act::Config => (&self.config, "config"),
            Act::ConfigJson => (&self.config_json, "config_json"),
            Act::Doctor => (&self.doctor, "doctor"),
        };
        if arguments.is_empty() { Err(format!("the target file has no launch.{key}")) } else { Ok(arguments) }
    }

    /// The arguments that name this file of settings.
    ///
    /// # Errors
    /// The target reads no such file: which key of the target file would say how.
    pub fn settings_file(&self, file: &Path) -> Result<Vec<String>, String> {
        if self.settings_file.is_empty() {
            return Err("the target file has no launch.settings_file".to_owned());
        }
        let file = file.display().to_string();
        Ok(self.settings_file.iter().map(|argument| argument.replace("{file}", &file)).collect())
    }

    /// Whether a server that serves writes its address to a file.
    #[must_use]
    pub fn writes_address(&self) -> bool {
        self.serve.iter().any(|argument| argument.contains("{addr_file}"))
    }
}

/// Images.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Images {
    /// The server's.
    pub server: Option<String>,
    /// The command in it that asks for the server's health.
    pub server_health: Vec<String>,
    /// The workspaces'.
    pub workspace: Option<String>,
}

/// What a workspace's container looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Containers {
    name: String,
    /// Label with the deployment's id.
    pub deployment_label: String,
    /// Label with the workspace's id.
    pub workspace_label: String,
    /// Label with the time of creation.
    pub created_label: String,
    /// Path of the socket directory inside.
    pub sockets: String,
    /// The proxy's address inside, host and port.
    pub bridge: String,
    /// Whether the workspace's agent listens on its socket, in place of the server.
    pub agent_listens: bool,
}

impl Containers {
    /// The name of the container of this workspace.
    #[must_use]
    pub fn name(&self, workspace: &str) -> String {
        self.name.replace("{workspace}", workspace)
    }

    /// The proxy's URL inside a workspace.
    #[must_use]
    pub fn proxy(&self) -> String {
        format!("http://{}", self.bridge)
    }
}

/// The names of the fields in the form of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormFields {
    /// The field with the request, as JSON.
    pub request: String,
    /// The fields with files.
    pub files: String,
    /// The field with the files' paths.
    pub metadata: String,
}

impl Default for FormFields {
    /// The contract's.
    fn default() -> Self {
        Description::own().speech.form.clone()
    }
}

/// How requests are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speech {
    /// The header with the API key.
    pub key_header: String,
    /// What stands before the key.
    pub key_scheme: String,
    /// How paths are spelled.
    pub routes: Routes,
    /// Whether every request that begins a run is a form. Otherwise it is JSON, and a form only if it brings files.
    pub runs_are_forms: bool,
    /// The names in such a form.
    pub form: FormFields,
    /// How long a connection may take.
    pub connect: Duration,
    /// How long an answer may take.
    pub request: Duration,
    /// How long an event stream may be silent.
    pub silence: Duration,
}

/// How long a server may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// How old the result of `/health` may be.
    pub health_interval: Duration,
    /// Until it listens.
    pub start: Duration,
    /// Until it is ready.
    pub ready: Duration,
    /// To stop.
    pub stop: Duration,
}

/// What its log looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The value of `LOG_FORMAT`.
    pub format: String,
    /// The field with the level, in a log of JSON.
    pub level_field: String,
    /// The levels of errors.
    pub errors: Vec<String>,
}

/// A whole description.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The file it was read from; `None`: this project's own.
    pub file: Option<PathBuf>,
    /// What the target is called.
    pub name: String,
    /// How it is launched.
    pub launch: Launching,
    /// How it is configured.
    pub settings: Settings,
    /// Its images.
    pub images: Images,
    /// Its containers.
    pub containers: Arc<Containers>,
    /// How it is asked.
    pub speech: Arc<Speech>,
    /// How long it may take.
    pub limits: Limits,
    /// Its log.
    pub log: Log,
    /// Optional parts that it does not have, by name.
    pub without: Vec<String>,
}

impl Description {
    /// This project's own.
    #[must_use]
    pub fn own() -> Arc<Self> {
        OURS.clone()
    }

    /// Reads a target file.
    ///
    /// # Errors
    /// The file cannot be read, or has faults: all of them, one on each line, with the place and a cure.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let named = format!("--target-file {}", path.display());
        let text = std::fs::read_to_string(path).map_err(|error| anyhow::anyhow!("{named}: {error}"))?;
        let here = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let here = here.canonicalize().map_err(|error| anyhow::anyhow!("{named}: {error}"))?;
        let mut description = Self::parse(&text, &here).map_err(|faults| {
            let lines: Vec<String> =
                faults.iter().map(|fault| format!("\n  {}:{}: {}", path.display(), fault.line, fault.what)).collect();
            anyhow::anyhow!("{named}: {} wrong; nothing was run{}", counted(faults.len()), lines.concat())
        })?;
        description.file = Some(path.to_owned());
        Ok(description)
    }

    /// Reads the text of a target file in the folder `here`.
    ///
    /// # Errors
    /// Every fault.
    pub fn parse(text: &str, here: &Path) -> Result<Self, Vec<Fault>> {
        let mut said = read::read(text);
        contradictions::find(&mut said);
        if !said.faults.is_empty() {
            said.faults.sort();
            return Err(said.faults);
        }
        Ok(Self::of(&said, &read::read(OWN), here))
    }

    /// What a file says, and for the rest what the contract says.
    fn of(said: &Said, contract: &Said, here: &Path) -> Self {
        let text = |key: &str| said.text(key).or_else(|| contract.text(key)).unwrap_or_default();
        let seconds =
            |key: &str| Duration::from_secs_f64(said.seconds(key).or_else(|| contract.seconds(key)).unwrap_or(1.0));
        let words = |key: &str| said.words(key).unwrap_or_default();
        let of_map =
            |map: &str| said.map(map).into_iter().map(|(name, _, value)| (name, value)).collect::<BTreeMap<_, _>>();
        let at_home = |words: Vec<String>| -> Vec<String> {
            words.into_iter().map(|word| word.replace("{here}", &here.display().to_string())).collect()
        };
        let program = said.text("launch.program").map(|program| match program.contains('/') {
            true => here.join(program),
            false => PathBuf::from(program),
        });
        Self {
            file: None,
            name: text("name"),
            launch: Launching {
                program,
                serve: at_home(words("launch.serve")),
                restart: at_home(words("launch.restart")),
                config: at_home(words("launch.config")),
                config_json: at_home(words("launch.config_json")),
                doctor: at_home(words("launch.doctor")),
                settings_file: at_home(words("launch.settings_file")),
                stop_signal: signal(&text("launch.stop_signal")).unwrap_or(Signal::TERM),
                reload_signal: said.text("launch.reload_signal").and_then(|name| signal(&name)),
                database_file: said.text("launch.database_file"),
            },
            settings: Settings::new(of_map("settings"), of_map("environment")).with_file_keys(of_map("settings_file")),
            images: Images {
                server: said.text("images.server"),
                server_health: words("images.server_health"),
                workspace: said.text("images.workspace"),
            },
            containers: Arc::new(Containers {
                name: text("containers.name"),
                deployment_label: text("containers.deployment_label"),
                workspace_label: text("containers.workspace_label"),
                created_label: text("containers.created_label"),
                sockets: text("containers.sockets"),
                bridge: text("containers.bridge"),
                agent_listens: text("containers.listener") == "agent",
            }),
            speech: Arc::new(Speech {
                key_header: text("http.key_header"),
                key_scheme: text("http.key_scheme"),
                routes: Routes::new(&text("http.prefix"), &of_map("http.routes")),
                runs_are_forms: text("http.runs") == "form",
                form: FormFields {
                    request: said.text("http.form_field").unwrap_or_else(|| REQUEST_FIELD.to_owned()),
                    files: text("http.files_field"),
                    metadata: text("http.metadata_field"),
                },
                connect: seconds("timeouts.connect"),
                request: seconds("timeouts.request"),
                silence: seconds("timeouts.silence"),
            }),
            limits: Limits {
                health_interval: seconds("timeouts.health_interval"),
                start: seconds("timeouts.start"),
                ready: seconds("timeouts.ready"),
                stop: seconds("timeouts.stop"),
            },
            log: Log {
                format: text("log.format"),
                level_field: text("log.level_field"),
                errors: said.words("log.errors").or_else(|| contract.words("log.errors")).unwrap_or_default(),
            },
            without: words("optional.without"),
        }
    }
}

fn counted(faults: usize) -> String {
    if faults == 1 { "one thing is".to_owned() } else { format!("{faults} things are") }
}

fn signal(name: &str) -> Option<Signal> {
    Some(match name {
        "TERM" => Signal::TERM,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "HUP" => Signal::HUP,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
