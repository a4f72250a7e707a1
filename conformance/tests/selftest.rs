//! The cheapest broken deployments, each as a test of its own, so that every change tests the machinery of `selftest`; and two
//! deployments that must not count as caught.

use libtest_mimic::{Arguments, Failed, Trial as Test};
use nagaya_conformance::harness::capabilities::Capabilities;
use nagaya_conformance::harness::options::Options;
use nagaya_conformance::harness::outcome::{Exit, Outcome};
use nagaya_conformance::harness::runner::Report;
use nagaya_conformance::mutants::{Mutant, Red};
use nagaya_conformance::selftest::{Catch, Observer, Proof, Trial};
use nagaya_conformance::target::defects::Defect;
use nagaya_conformance::target::tamper::Tamper;
use nagaya_conformance::{mutants, selftest};
use serde_json::json;
use tokio_util::sync::CancellationToken;

/// One for each place of a defect, except those that need the model or build an image.
const QUICK: [&str; 7] = [
    "gc-interval-missing",
    "filter-ignored",
    "errors-without-envelope",
    "health-is-no-json",
    "request-id-lost",
    "host-path-mounted",
    "second-answer-after-tunnel",
];

/// A deployment without a defect: no scenario fails.
const SOUND: Mutant = Mutant {
    id: "sound",
    title: "Nothing is wrong",
    defects: &[],
    red: &[Red { scenario: "API-006", says: "X-Request-ID" }],
};

/// A deployment whose scenario fails, but not with the expected message.
const MISNAMED: Mutant = Mutant {
    id: "misnamed",
    title: "The server does not start",
    defects: &[Defect::Start("exit 1")],
    red: &[Red { scenario: "API-006", says: "X-Request-ID" }],
};

/// A deployment that behaves as the contract says, with errors in another shape.
const OTHER_SHAPES: Mutant = Mutant {
    id: "other-shapes",
    title: "Invalid requests are answered with 400, and errors have neither details nor messages",
    defects: &[Defect::Http(Tamper {
        ask: None,
        answer: Some(|_, answer, _| {
            if answer.status == 422 {
                answer.status = 400;
            }
            if answer.status >= 400 {
                answer.edit(|body| {
                    body["error"] = json!({"code": body["error"]["code"], "message": null, "details": null});
                });
            }
        }),
        event: None,
    })],
    red: &[
        Red { scenario: "API-001", says: "status" },
        Red { scenario: "API-002", says: "status" },
        Red { scenario: "API-003", says: "status" },
        Red { scenario: "API-005", says: "status" },
        Red { scenario: "API-007", says: "status" },
        Red { scenario: "API-008", says: "status" },
        Red { scenario: "API-009", says: "status" },
        Red { scenario: "BUG-14", says: "status" },
        Red { scenario: "HLTH-001", says: "status" },
    ],
};

fn main() {
    let mut tests: Vec<Test> = QUICK.into_iter().map(|id| Test::test(id, move || is_caught(id))).collect();
    tests.push(Test::test("a-sound-deployment-is-missed", || is(&SOUND, Catch::Missed)));
    tests.push(Test::test("other-shapes-fail-no-behaviour", || is(&OTHER_SHAPES, Catch::Missed)));
    tests.push(Test::test("another-reason-is-no-catch", || is(&MISNAMED, Catch::OtherReason)));
    libtest_mimic::run(&Arguments::from_args(), tests).exit();
}

fn is_caught(id: &str) -> Result<(), Failed> {
    let mutant = mutants::find(id).ok_or_else(|| format!("no broken deployment has the id {id}"))?;
    let proof = prove(mutant)?;
    if proof.exit() != Exit::Conformant || proof.caught() != (1, 1) {
        return Err(format!("{proof:#?}").into());
    }
    Ok(())
}

fn is(mutant: &'static Mutant, catch: Catch) -> Result<(), Failed> {
    let proof = prove(mutant)?;
    let good = proof.good.iter().all(|report| report.outcome == Outcome::Pass);
    if !good || proof.trials.iter().any(|trial| trial.catch != catch) || proof.exit() != Exit::NonConformant {
        return Err(format!("not {catch:?}: {proof:#?}").into());
    }
    Ok(())
}

struct Quiet;

impl Observer for Quiet {
    fn good(&self, _: &Report) {}
    fn ended(&self, _: &Trial) {}
}

fn prove(mutant: &'static Mutant) -> Result<Proof, Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let proof = runtime.block_on(async {
        let options = Options::default();
        let capabilities = Capabilities::probe(&options).await?;
        selftest::prove(&options, &capabilities, &[mutant], 1, &CancellationToken::new(), &Quiet).await
    });
    proof.map_err(|error| format!("{error:#}").into())
}
