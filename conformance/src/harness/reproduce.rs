//! The command that runs a scenario again as it was run.

use std::fmt::Display;

use crate::harness::environment;
use crate::harness::options::{AgentSocket, LaunchAs, Options};

/// A shell line with every option and variable that can change the result of the scenario `id`. A key is left out: it is a secret.
#[must_use]
pub fn line(id: &str, options: &Options) -> String {
    let named = environment::WITHOUT_FLAG.into_iter().filter_map(|name| Some((name, environment::named(name)?)));
    line_with(id, options, &named.collect::<Vec<_>>())
}

fn line_with(id: &str, options: &Options, environment: &[(&str, String)]) -> String {
    // Without `..`: an option that is added must be considered here.
    let Options {
        description,
        target,
        launch,
        docker,
        ca,
        api_key,
        deployment,
        image,
        agent_socket,
        allow_destructive,
        allow_model_calls,
        without,
        patience,
        stress,
        seed,
    } = options;
    let mut words: Vec<String> = environment.iter().map(|(name, value)| format!("{name}={}", quoted(value))).collect();
    words.push(format!("nagaya-conformance run --filter {} --seed {seed}", quoted(&format!("id(={id})"))));
    let mut add = |flag: &str, value: Option<&dyn Display>| {
        words.extend(value.map(|value| format!("{flag} {}", quoted(&value.to_string()))));
    };
    let file = description.file.as_ref().map(|path| path.display().to_string());
    add("--target-file", shown(&file));
    add("--target", shown(target));
    add("--docker", shown(docker));
    let ca = ca.as_ref().map(|path| path.display().to_string());
    add("--ca", shown(&ca));
    add("--deployment", shown(deployment));
    add("--image", shown(image));
    add("--launch", (*launch != LaunchAs::Process).then_some(launch as &dyn Display));
    add("--agent-socket", (*agent_socket != AgentSocket::Server).then_some(agent_socket as &dyn Display));
    let names: Vec<&str> = without.iter().map(<&str>::from).collect();
    let names = names.join(",");
    add("--without", (!names.is_empty()).then_some(&names as &dyn Display));
    add("--patience", (*patience != Options::PATIENCE).then_some(patience as &dyn Display));
    for (flag, is_set) in [
        ("--allow-destructive", *allow_destructive),
        ("--allow-model-calls", *allow_model_calls),
        ("--stress", *stress),
    ] {
        words.extend(is_set.then(|| flag.to_owned()));
    }
    words.extend(api_key.is_some().then(|| "--api-key …".to_owned()));
    words.join(" ")
}

fn shown<T: Display>(value: &Option<T>) -> Option<&dyn Display> {
    value.as_ref().map(|value| value as &dyn Display)
}

/// A word of a shell line (POSIX, 2.2.2).
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::description::Description;
    use crate::harness::vocabulary::Capability;

    #[test]
    fn every_option_that_matters_is_repeated_and_the_key_is_not() {
        let description = Description { file: Some("theirs.toml".into()), ..(*Description::own()).clone() };
        let options = Options {
            description: Arc::new(description),
            target: Some("https://host:8443".to_owned()),
            launch: LaunchAs::Container,
            docker: Some("/var/run/docker.sock".to_owned()),
            ca: Some("ours.pem".into()),
            api_key: Some("a-secret-key".to_owned()),
            deployment: Some("my deployment".to_owned()),
            image: Some("theirs:1".to_owned()),
            agent_socket: AgentSocket::Agent,
            allow_destructive: true,
            allow_model_calls: true,
            without: vec![Capability::Admin, Capability::Resume],
            patience: 2.5,
            stress: true,
            seed: 7,
        };
        let environment = [(environment::SERVER, "/opt/it's here/server".to_owned())];
        assert_eq!(
            line_with("BUG-01", &options, &environment),
            "NAGAYA_BIN='/opt/it'\\''s here/server' nagaya-conformance run --filter 'id(=BUG-01)' --seed 7 --target-file theirs.toml \
             --target https://host:8443 \
             --docker /var/run/docker.sock --ca ours.pem --deployment 'my deployment' --image theirs:1 --launch container --agent-socket agent \
             --without admin,resume --patience 2.5 --allow-destructive --allow-model-calls --stress --api-key …"
        );
        let plain = Options { seed: 7, ..Options::default() };
        assert_eq!(line_with("BUG-01", &plain, &[]), "nagaya-conformance run --filter 'id(=BUG-01)' --seed 7");
    }
}
