//! Tests with the real shell.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::*;

/// A script that runs.
struct Running {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(options: &Options) -> Self {
        let request = Script.start(options);
        let mut command = Command::new(request.program.expect("a program of its own"));
        command.args(request.arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("starts");
        let (input, output) = (process.stdin.take().expect("piped"), process.stdout.take().expect("piped"));
        Self { process, input, output: BufReader::new(output) }
    }

    fn write(&mut self, lines: &[String]) {
        writeln!(self.input, "{}", lines.join("\n")).expect("writes");
    }

    fn prompt(&mut self, id: &str, text: &str) {
        self.write(&Script.prompt(id, &Prompt { text: text.into(), ..Prompt::default() }));
    }

    /// The events of a turn up to the first for which `last` holds.
    fn until(&mut self, turn: &mut dyn Dialogue, last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = Vec::new();
        while !events.last().is_some_and(&last) {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).expect("reads") > 0, "it has ended after {events:?}");
            events.extend(turn.read(line.trim_end_matches('\n')).expect("within bounds"));
        }
        events
    }

    fn end(mut self) {
        drop(self.input);
        assert!(self.process.wait().expect("ends").success());
    }
}

fn is_result(event: &Event) -> bool {
    matches!(event, Event::Result(_))
}

fn result(events: &[Event]) -> &TurnResult {
    let Some(Event::Result(result)) = events.last() else { panic!("no result: {events:?}") };
    result
}

#[test]
fn it_says_what_it_is_told_turn_after_turn() {
    let options = Options { session: Some("s-1".into()), ..Options::default() };
    let mut script = Running::start(&options);
    script.prompt("t-1", "hello  \\n $HOME `id`\n@pieces 3\n@pieces 2 0.01");
    let events = script.until(&mut *Script.dialogue(&options, None), is_result);
    assert!(matches!(&events[0], Event::System { session_id, .. } if session_id == "s-1"), "{events:?}");
    let pieces = events.iter().filter(|event| matches!(event, Event::TextDelta { .. })).count();
    assert_eq!((pieces, result(&events).result.as_str()), (6, "hello  \\n $HOME `id`"));
    // The second turn's dialogue passes over what is left of the first.
    script.prompt("t-2", "one");
    script.prompt("t-3", "two");
    let mut third = Script.dialogue(&options, Some("t-3"));
    assert!(!third.has_begun());
    assert_eq!(result(&script.until(&mut *third, is_result)).result, "two");
    script.end();
}

#[test]
fn it_asks_and_can_be_interrupted() {
    let mut script = Running::start(&Options::default());
    let mut turn = Script.dialogue(&Options::default(), None);
    for (id, answer, told) in [
        ("t-1", Answer::Allow { updated_input: None }, "allowed"),
        ("t-2", Answer::Deny { message: "not\nnow".into() }, "not now"),
    ] {
        script.prompt(id, "@ask May I?");
        let events = script.until(&mut *turn, |event| matches!(event, Event::Ask(_)));
        let Some(Event::Ask(ask)) = events.last() else { panic!("{events:?}") };
        assert_eq!(ask.title.as_deref(), Some("May I?"));
        script.write(&Script.answer(ask, &answer));
        assert_eq!(result(&script.until(&mut *turn, is_result)).result, told);
    }
    for text in ["@wait\nnever said", "@ask May I?\nnever said", "@pieces 2 3600"] {
        script.prompt("t-3", text);
        if text.contains("@ask") {
            script.until(&mut *turn, |event| matches!(event, Event::Ask(_)));
        }
        script.write(&Script.interrupt("i"));
        let events = script.until(&mut *turn, is_result);
        assert!(result(&events).interrupted && !format!("{events:?}").contains("never said"), "{events:?}");
        assert_eq!(events.iter().any(|event| matches!(event, Event::Withdrawn { .. })), text.contains("@ask"));
    }
    // What comes too late changes nothing.
    script.write(&Script.interrupt("late"));
    script.prompt("t-4", "one");
    assert!(!result(&script.until(&mut *turn, is_result)).interrupted);
    script.end();
}

#[test]
fn its_end_is_told() {
    let ended = |how| Ended { how, message: "exit status: 3".into(), stderr: "why\n".into(), out_of_memory: None };
    let failure = Script.failure(&ended(How::Failed));
    assert_eq!(failure.kind, ErrorKind::ExecutionError);
    assert!(failure.message.ends_with("exit status: 3\nwhy"), "{failure:?}");
    assert_eq!(Script.failure(&ended(How::Cancelled)).kind, ErrorKind::Cancelled);
    let used_up = Ended { out_of_memory: Some("no memory".into()), ..ended(How::Failed) };
    assert_eq!(Script.failure(&used_up).kind, ErrorKind::OutOfMemory);
    assert!(Turn::default().read("noise").is_ok_and(|events| matches!(&events[..], [Event::Unknown { .. }])));
    assert!(Turn::default().read("withdrawn a b").is_err(), "an id with a space");
}
