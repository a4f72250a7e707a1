use super::*;

fn read(body: &str) -> Result<Found, Refusal> {
    let mut reader = Reader::new();
    for piece in body.as_bytes().chunks(11) {
        reader.feed(piece)?;
    }
    reader.finish()
}

fn found(body: &str) -> (Vec<String>, Vec<String>) {
    let found = read(body).unwrap_or_else(|refusal| panic!("{body}: {refusal:?}"));
    (found.models, found.tools)
}

/// Everything that Claude Code sends, and that names nothing of the provider's.
#[test]
fn an_ordinary_request_names_its_model() {
    let body = r#"{"model":"claude-a","max_tokens":1,"stream":true,"metadata":{"user_id":"x","model":"y"},"thinking":{"type":"enabled"},
        "system":[{"type":"text","text":"s","cache_control":{"type":"ephemeral"}}],
        "tools":[{"name":"Bash","input_schema":{"type":"object","properties":{"type":{"type":"string"},"model":{}}}},
            {"type":"custom","name":"x"},{"type":"bash_20250124","name":"bash"},{"type":"text_editor_20250728","name":"e"}],
        "mcp_servers":[],"container":null,
        "messages":[{"role":"user","content":"hi"},{"role":"assistant","content":[{"type":"tool_use","id":"1","name":"Bash",
            "input":{"source":{"type":"url","url":"u"},"s\u006furce":1,"a":1,"a":2}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":[{"type":"image",
            "source":{"type":"base64","media_type":"image/png","data":"AAAA"}}]}]}]}"#;
    assert_eq!(found(body), (vec!["claude-a".to_owned()], vec![]));
}

#[test]
fn every_model_is_found() {
    for (body, models) in [
        (r#"{"model":"a"}"#, &["a"][..]),
        (r#"{"model":"a","fallbacks":["b","c"]}"#, &["a", "b", "c"]),
        (r#"{"model":"a","fallbacks":[{"model":"b","max_tokens":1},{"models":["c"]}]}"#, &["a", "b", "c"]),
        (r#"{"model":"a","fallback_model":"b","models":["c"],"fallback":{"model":"d"}}"#, &["a", "b", "c", "d"]),
        (r#"{"tools":[{"type":"custom","model":"b"}],"model":"a\/x"}"#, &["b", "a/x"]),
        (r#"{"additionalModelRequestFields":{"model":"b","fallbacks":["c"]}}"#, &["b", "c"]),
    ] {
        assert_eq!(found(body).0, models, "{body}");
    }
    assert!(!read(r#"{"additionalModelRequestFields":{"model":"b"}}"#).expect("one reading").has_model);
}

#[test]
fn what_the_provider_executes_or_fetches_is_found() {
    let block = |block: &str| format!(r#"{{"model":"a","messages":[{{"role":"user","content":[{block}]}}]}}"#);
    for (body, tool) in [
        (r#"{"tools":[{"type":"web_search_20250305","name":"web_search"}]}"#.to_owned(), "web_search_20250305"),
        (r#"{"tools":[{"name":"x"},{"name":"web_fetch","type":"web_fetch_20250910"}]}"#.into(), "web_fetch_20250910"),
        (r#"{"tools":[{"type":"code_execution_20250825"}]}"#.into(), "code_execution_20250825"),
        (r#"{"tools":[{"type":"mcp_toolset"}]}"#.into(), "mcp_toolset"),
        (r#"{"tools":[{"type":"something_new"}]}"#.into(), "something_new"),
        (r#"{"mcp_servers":[{"type":"url","url":"https://x"}]}"#.into(), "mcp_servers"),
        (r#"{"mcp_servers":["x"]}"#.into(), "mcp_servers"),
        (r#"{"mcp_servers":{"url":"x"}}"#.into(), "mcp_servers"),
        (r#"{"container":"c"}"#.into(), "container"),
        (r#"{"container":{"skills":[]}}"#.into(), "container"),
        (
            r#"{"additionalModelRequestFields":{"tools":[{"type":"web_search_20250305"}]}}"#.into(),
            "web_search_20250305",
        ),
        (
            r#"{"toolConfig":{"tools":[{"toolSpec":{}},{"systemTool":{"name":"nova_grounding"}}]}}"#.into(),
            "system_tool",
        ),
        (block(r#"{"type":"container_upload","file_id":"f"}"#), "container_upload"),
        (block(r#"{"type":"image","source":{"type":"url","url":"https://x"}}"#), "url_source"),
        (block(r#"{"type":"document","source":{"type":"file","file_id":"f"}}"#), "file_source"),
        (block(r#"{"type":"tool_result","content":[{"type":"image","source":{"url":"https://x"}}]}"#), "url_source"),
        (
            block(
                r#"{"type":"document","source":{"type":"content","content":[{"type":"image","source":{"type":"url"}}]}}"#,
            ),
            "url_source",
        ),
        (block(r#"{"image":{"format":"png","source":{"s3Location":{"uri":"s3://x"}}}}"#), "s3_location"),
        (block(r#"{"toolResult":{"content":[{"video":{"source":{"s3Location":{}}}}]}}"#), "s3_location"),
        (r#"{"system":[{"type":"image","source":{"type":"url"}}]}"#.into(), "url_source"),
    ] {
        assert!(found(&body).1.iter().any(|found| found == tool), "{body}: {:?}", found(&body));
    }
}

#[test]
fn a_body_with_two_readings_is_refused() {
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
    let long = format!("{{\"model\":\"{}\"}}", "x".repeat(2000));
    for body in [
        "",
        "[]",
        "{",
        r#"{"model":"a","model":"b"}"#,
        r#"{"model":"a","x":1,"x":2}"#,
        r#"{"m\u006fdel":"b","model":"a"}"#,
        r#"{"Model":"b","model":"a"}"#,
        r#"{"model":"a","MODEL":"b"}"#,
        r#"{"model":"a","tool\u017f":[]}"#,
        "{\"model\":\"a\",\"tool\u{17f}\":[]}",
        r#"{"model":"\u0061"}"#,
        r#"{"model":["a"]}"#,
        r#"{"model":{"id":"a"}}"#,
        r#"{"model":null}"#,
        r#"{"model":1}"#,
        r#"{"model":"a"} {"model":"b"}"#,
        r#"{"model":"a",}"#,
        r#"{"model":"a"/**/}"#,
        r#"{"tools":{"0":{"type":"web_search_20250305"}}}"#,
        r#"{"tools":["web_search"]}"#,
        r#"{"tools":[[{"type":"web_search_20250305"}]]}"#,
        r#"{"tools":[{"type":"custom","type":"web_search_20250305"}]}"#,
        r#"{"tools":[{"Type":"web_search_20250305"}]}"#,
        r#"{"tools":[{"typ\u0065":"web_search_20250305"}]}"#,
        r#"{"tools":[{"type":["web_search_20250305"]}]}"#,
        r#"{"tools":[{"type":"web\u005fsearch"}]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"image","s\u006furce":{"type":"url"}}]}]}"#,
        r#"{"messages":{"role":"user","content":[]}}"#,
        r#"{"fallbacks":[["b"]]}"#,
        deep.as_str(),
        long.as_str(),
    ] {
        let refused = read(body).map(|found| format!("{found:?}")).expect_err(body);
        assert_eq!(refused.decision.reason(), Some("ambiguous_body"), "{body}");
    }
}
