//! What is recorded of a CLI's conversation with the server: each situation is a few turns of one process.

use nagaya_driver::{Block, ClientTool, Options, Permissions, Prompt};
use serde_json::json;

/// A few turns of one process.
pub struct Situation {
    /// Name of its file.
    pub name: &'static str,
    /// What the CLI is started with, beside the model.
    pub options: Options,
    /// The turns.
    pub turns: Vec<Turn>,
}

/// One turn.
pub struct Turn {
    /// What the user says.
    pub prompt: Prompt,
    /// When the turn is interrupted.
    pub interrupt: Option<At>,
    /// What is decided about whatever is asked.
    pub allow: bool,
}

/// When a turn is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// At its first call of a tool.
    Call,
    /// At the first question, in the place of a decision.
    Question,
}

/// A turn in which everything is allowed.
fn say(text: &str) -> Turn {
    Turn { prompt: Prompt { text: text.into(), ..Prompt::default() }, interrupt: None, allow: true }
}

fn bash(command: &str) -> String {
    format!("@tool Bash {}", json!({"command": command, "description": "Try"}))
}

/// All of them.
pub fn all() -> Vec<Situation> {
    let situation = |name, options, turns| Situation { name, options, turns };
    let plain = Options::default;
    let ask = Permissions { ask: vec!["Bash".into()], ..Permissions::default() };
    let questions = Permissions { questions: true, ..Permissions::default() };
    let question = json!({"questions": [{"question": "Which colour?", "header": "Colour", "multiSelect": false,
        "options": [{"label": "Red", "description": "Like a rose"}, {"label": "Blue", "description": "Like the sky"}]}]});
    let price = ClientTool {
        name: "price".into(),
        description: "The price of a fruit".into(),
        input_schema: json!({"type": "object", "properties": {"item": {"type": "string"}}, "required": ["item"]}),
    };
    let image = Block::Image { media_type: "image/png".into(), data: PIXEL.into() };
    let schema = json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]});
    vec![
        situation("turns", plain(), vec![say("@think Hm.\n@say Hello."), say("@say Hello again.")]),
        situation(
            "tool",
            plain(),
            vec![say(&format!("@say I try.\n{}\n@say Done.", bash("echo out; echo err >&2; exit 3")))],
        ),
        situation("introduced", Options { system_prompt: "Be kind.".into(), ..plain() }, vec![say("@recall kind")]),
        situation(
            "image",
            plain(),
            vec![Turn {
                prompt: Prompt { text: "@say A dot.".into(), blocks: vec![image], command: false },
                ..say("")
            }],
        ),
        situation(
            "approval",
            Options { permissions: ask.clone(), ..plain() },
            vec![
                say(&format!("{}\n@say Allowed.", bash("echo ran"))),
                Turn { allow: false, ..say(&format!("{}\n@say Denied.", bash("echo never"))) },
            ],
        ),
        situation(
            "question",
            Options { permissions: questions, ..plain() },
            vec![say(&format!("@tool AskUserQuestion {question}\n@say Thank you."))],
        ),
        situation(
            "interrupt",
            plain(),
            vec![
                Turn { interrupt: Some(At::Call), ..say(&format!("{}\n@say never", bash("tail -f /dev/null"))) },
                say("@say I am still here."),
            ],
        ),
        situation(
            "withdrawn",
            Options { permissions: ask, ..plain() },
            vec![
                Turn { interrupt: Some(At::Question), ..say(&format!("{}\n@say never", bash("echo never"))) },
                say("@say I am still here."),
            ],
        ),
        situation("cut-off", plain(), vec![say("@say half of it\n@stop max_tokens\n@stop max_tokens")]),
        situation("refusal", plain(), vec![say("@say I begin\n@stop refusal\n@stop refusal")]),
        situation(
            "client-tool",
            Options { client_tools: vec![price], ..plain() },
            vec![say(
                "@also mcp__client__price {\"item\": \"melon\"}\n@tool mcp__client__price {\"item\": \"fig\"}\n@say Done.",
            )],
        ),
        situation(
            "structured",
            Options { output_schema: Some(schema), ..plain() },
            vec![say("@tool StructuredOutput {\"n\": 3}\n@say done")],
        ),
        situation("model-error", plain(), vec![say("@status 529")]),
        situation(
            "compaction",
            plain(),
            vec![
                say("@say Remember this."),
                Turn { prompt: Prompt { text: "/compact".into(), command: true, ..Prompt::default() }, ..say("") },
            ],
        ),
    ]
}

/// An image of one dot.
const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
