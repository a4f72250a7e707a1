use proptest::prelude::*;

use super::*;

/// Wants every text and counts what it is told.
#[derive(Debug, Default, PartialEq)]
struct Everything {
    told: Vec<String>,
    depth: usize,
}

impl Events for Everything {
    fn wants_texts(&self) -> bool {
        true
    }

    fn key(&mut self, text: &Text) -> Result<(), Fault> {
        self.told.push(format!("key {:?}", text.plain()));
        Ok(())
    }

    fn scalar(&mut self, value: &Scalar<'_>) -> Result<(), Fault> {
        self.told.push(match value {
            Scalar::Text(text) => format!("text {:?}", text.plain()),
            Scalar::Null => "null".into(),
            Scalar::Other => "other".into(),
        });
        Ok(())
    }

    fn open(&mut self, object: bool) -> Result<(), Fault> {
        self.depth += 1;
        self.told.push(format!("open {object}"));
        Ok(())
    }

    fn close(&mut self) {
        self.depth -= 1;
        self.told.push("close".into());
    }
}

fn read(bytes: &[u8], step: usize) -> Result<Vec<String>, Fault> {
    let mut json = Json::new(Everything::default());
    for piece in bytes.chunks(step.max(1)) {
        json.feed(piece)?;
    }
    json.finish()?;
    assert_eq!(json.events.depth, 0);
    Ok(json.events.told)
}

#[test]
fn a_document_is_the_same_however_it_is_split() {
    let text = r#" {"a":[1,-0.5e+3,true,false,null,"x\/y","\u0041"],"é":{},"b":[],"c":"d"} "#;
    let whole = read(text.as_bytes(), text.len()).expect("JSON");
    let expected = [
        "open true",
        "key Some(\"a\")",
        "open false",
        "other",
        "other",
        "other",
        "other",
        "null",
        "text Some(\"x/y\")",
        "text None",
        "close",
        "key Some(\"é\")",
        "open true",
        "close",
        "key Some(\"b\")",
        "open false",
        "close",
        "key Some(\"c\")",
        "text Some(\"d\")",
        "close",
    ];
    assert_eq!(whole, expected);
    for step in 1..text.len() {
        assert_eq!(read(text.as_bytes(), step).as_ref(), Ok(&whole), "{step}");
    }
}

#[test]
fn what_is_not_json_to_everybody_is_refused() {
    let bad: [&[u8]; 34] = [
        b"",
        b" ",
        b"{",
        b"}",
        b"[",
        b"{]",
        b"[}",
        b"{\"a\"}",
        b"{\"a\":}",
        b"{\"a\":1,}",
        b"[1,]",
        b"[,1]",
        b"{,}",
        b"{a:1}",
        b"{'a':1}",
        b"01",
        b"-",
        b"1.",
        b".5",
        b"1e",
        b"+1",
        b"NaN",
        b"nul",
        b"nulll",
        b"{} {}",
        b"1 2",
        b"\"a",
        b"\"\n\"",
        b"\"\\x\"",
        b"\"\\u12\"",
        b"/* */ 1",
        b"\xef\xbb\xbf{}",
        b"\"\xff\"",
        b"\"\xc0\xae\"",
    ];
    for bytes in bad {
        for step in [1, bytes.len()] {
            assert!(read(bytes, step).is_err(), "{}", String::from_utf8_lossy(bytes));
        }
    }
    assert!(read(b"\"\xe9\x95", 2).is_err(), "half a character");
    let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert!(read(&nested(DEEPEST), 7).is_ok() && read(&nested(DEEPEST + 1), 7).is_err());
}

#[test]
fn long_texts_are_not_kept() {
    let text = format!("[\"{}\",\"{}\"]", "x".repeat(LONGEST), "x".repeat(LONGEST + 1));
    let told = read(text.as_bytes(), 100).expect("JSON");
    assert!(told[1].starts_with("text Some") && told[2] == "text None", "{told:?}");
}

proptest! {
    /// What is accepted is JSON to a common reader, and what that reader writes is accepted.
    #[test]
    fn what_is_accepted_is_json_to_others(text in "[ \\[\\]{}:,\"\\\\/a-c0-9.eE+-]{0,24}", step in 1_usize..5) {
        let ours = read(text.as_bytes(), step).is_ok();
        let theirs = serde_json::from_str::<serde_json::Value>(&text);
        if ours {
            // Numbers beyond any range are JSON, and no number to that reader.
            let out_of_range = theirs.as_ref().is_err_and(|error| error.to_string().contains("out of range"));
            prop_assert!(theirs.is_ok() || out_of_range, "{text}");
        }
        if let Ok(value) = theirs {
            prop_assert!(ours, "{text}");
            prop_assert!(read(value.to_string().as_bytes(), step).is_ok());
        }
    }
}
