//! What applies where levels meet.

use serde_json::json;

use super::*;

pub(in crate::tenancy) fn document(json: serde_json::Value) -> Document {
    serde_json::from_value(json).expect("a document")
}

pub(in crate::tenancy) fn operator() -> Operator {
    Operator {
        models: ["a", "b", "c"].map(Into::into).into(),
        provider_tools: vec!["web_search".into()],
        run_seconds: 600,
        images: vec!["tools".into()],
        disk: 1 << 30,
    }
}

fn tenants(model: &str) -> Base<'_> {
    Base { tenants_model: Some(model), conversations_model: None }
}

#[test]
fn a_workspace_asks_the_models_of_its_conversation_alone() {
    let of = |documents: &[(Level, serde_json::Value)]| {
        let base = Base { tenants_model: None, conversations_model: Some("a") };
        let documents: Vec<_> = documents.iter().map(|(level, json)| (*level, document(json.clone()))).collect();
        let levels: Vec<_> = documents.iter().map(|(level, document)| (*level, document)).collect();
        resolve(&operator(), base, &levels).workspace_models
    };
    let listed = |models: &[&str]| json!({"models": {"allowed": models}});
    let decided = |models: &[&str], from| Decided { value: models.iter().map(|id| (*id).into()).collect(), from };
    assert_eq!(of(&[]), decided(&["a"], Level::Conversation));
    assert_eq!(of(&[(Level::Tenant, listed(&["a", "b"]))]), decided(&["a"], Level::Conversation));
    assert_eq!(of(&[(Level::Tenant, listed(&["b"]))]), decided(&[], Level::Conversation), "not any more");
    let both = [(Level::Tenant, listed(&["a", "b"])), (Level::Conversation, listed(&["a", "b", "c"]))];
    assert_eq!(of(&both), decided(&["a", "b"], Level::Conversation));
    let run = [(Level::Conversation, listed(&["a", "b"])), (Level::Run, listed(&["a"]))];
    assert_eq!(of(&run), decided(&["a"], Level::Run), "a run narrows");
    assert_eq!(of(&[(Level::Run, listed(&["b"]))]), decided(&[], Level::Run), "and never widens");
    assert_eq!(resolve(&operator(), Base::default(), &[]).workspace_models.value, operator().models);
}

#[test]
fn each_level_narrows_the_one_above_and_is_named() {
    let tenant = document(json!({
        "models": {"allowed": ["a", "b"], "default": "a"},
        "tools": {"allowed": ["Bash", "Read"], "provider": ["web_search"]},
        "egress": {"allow": [{"host": "*.example.com"}], "requests_per_second": 10},
        "vaults": ["v1", "v2"],
        "limits": {"run_seconds": 60},
    }));
    let conversation = document(json!({
        "models": {"allowed": ["b", "c"]},
        "tools": {"allowed": ["Read", "Write"]},
        "egress": {"deny": ["www.example.com"], "requests_per_second": 20},
        "vaults": ["v2", "v3"],
        "limits": {"run_seconds": 600, "max_turns": 5},
    }));
    let levels = [(Level::Tenant, &tenant), (Level::Conversation, &conversation)];
    let effective = resolve(&operator(), tenants("c"), &levels);
    assert_eq!(effective.models, Decided { value: vec!["b".into()], from: Level::Conversation });
    assert_eq!(effective.default_model.value, None, "the default is not among the models any more");
    assert_eq!(effective.tools.value, Some(vec!["Read".into()]), "never more than the level above");
    assert_eq!(effective.provider_tools.value, ["web_search"]);
    assert_eq!(effective.requests_per_second, Decided { value: Some(10), from: Level::Tenant });
    assert_eq!(effective.vaults.value, ["v2"]);
    assert_eq!(effective.run_seconds, Decided { value: 60, from: Level::Tenant });
    assert_eq!(effective.max_turns, Decided { value: Some(5), from: Level::Conversation });
    assert_eq!(
        effective.egress.iter().map(|layer| layer.from).collect::<Vec<_>>(),
        [Level::Tenant, Level::Conversation]
    );
}

#[test]
fn without_documents_the_operators_settings_apply() {
    let effective = resolve(&operator(), Base::default(), &[]);
    assert_eq!(effective.models, Decided { value: operator().models, from: Level::Operator });
    assert!(effective.provider_tools.value.is_empty() && effective.vaults.value.is_empty());
    assert_eq!((effective.tools.value, effective.egress.len()), (None, 0));
}

#[test]
fn the_lowest_level_chooses_an_image_and_none_has_a_larger_disk() {
    let of = |documents: &[(Level, serde_json::Value)]| {
        let documents: Vec<_> = documents.iter().map(|(level, json)| (*level, document(json.clone()))).collect();
        let levels: Vec<_> = documents.iter().map(|(level, document)| (*level, document)).collect();
        let effective = resolve(&operator(), Base::default(), &levels);
        (effective.image, effective.disk)
    };
    let decided =
        |image: &str, from, disk, by| (Decided { value: image.to_owned(), from }, Decided { value: disk, from: by });
    assert_eq!(of(&[]), decided("default", Level::Operator, 1 << 30, Level::Operator));
    let tenant = (Level::Tenant, json!({"image": "tools", "disk": 1 << 21}));
    assert_eq!(of(std::slice::from_ref(&tenant)), decided("tools", Level::Tenant, 1 << 21, Level::Tenant));
    let back = (Level::Conversation, json!({"image": "default", "disk": 1 << 22}));
    assert_eq!(of(&[tenant.clone(), back]), decided("default", Level::Conversation, 1 << 21, Level::Tenant));
    let gone = (Level::Conversation, json!({"image": "removed", "disk": 1 << 20}));
    assert_eq!(
        of(&[tenant, gone]),
        decided("tools", Level::Tenant, 1 << 20, Level::Conversation),
        "not offered any more"
    );
}

#[test]
fn levels_add_to_what_is_asked_and_denied_and_only_take_questions_away() {
    let of = |documents: &[serde_json::Value]| {
        let levels = [Level::Tenant, Level::Conversation, Level::Run];
        let documents: Vec<_> = documents.iter().map(|json| document(json!({"permissions": json}))).collect();
        resolve(&operator(), Base::default(), &levels.into_iter().zip(&documents).collect::<Vec<_>>()).permissions
    };
    let added = of(&[
        json!({"ask": ["Bash"], "deny": ["WebFetch"], "questions": true}),
        json!({"ask": ["Bash", "Edit"], "deny": []}),
        json!({"deny": ["Bash(git push:*)"]}),
    ]);
    let rules = |rules: &[&str], from| Decided { value: rules.iter().map(|rule| (*rule).into()).collect(), from };
    assert_eq!(added.ask, rules(&["Bash", "Edit"], Level::Conversation));
    assert_eq!(added.deny, rules(&["WebFetch", "Bash(git push:*)"], Level::Run));
    assert_eq!(added.questions, Decided { value: true, from: Level::Tenant });
    let may = |questions: &[Option<bool>]| {
        let said = questions.iter().map(|may| may.map_or(json!({}), |may| json!({"questions": may})));
        of(&said.collect::<Vec<_>>()).questions.value
    };
    assert!(!may(&[]) && may(&[None, Some(true)]) && may(&[Some(true), None, Some(true)]));
    assert!(!may(&[Some(false), Some(true)]) && !may(&[Some(true), Some(false), Some(true)]));
}

#[test]
fn a_tenant_has_servers_and_the_levels_below_choose_among_them() {
    let server = |host: &str| json!({"url": format!("https://{host}.example/mcp")});
    let tenant = document(json!({"integrations": {"mcp_servers": {"a": server("a"), "b": server("b")}}}));
    let own =
        document(json!({"integrations": {"mcp_servers": {"c": server("evil")}, "mcp_servers_allowed": ["b", "c"]}}));
    let of = |levels: &[(Level, &Document)]| resolve(&operator(), Base::default(), levels).mcp_servers;
    assert_eq!(of(&[(Level::Tenant, &tenant)]).value.keys().collect::<Vec<_>>(), ["a", "b"]);
    let chosen = of(&[(Level::Tenant, &tenant), (Level::Conversation, &own)]);
    let expected = BTreeMap::from([("b".to_owned(), "https://b.example/mcp".to_owned())]);
    assert_eq!(chosen, Decided { value: expected, from: Level::Conversation });
    assert_eq!(of(&[(Level::Conversation, &own)]).value, BTreeMap::new());
}
