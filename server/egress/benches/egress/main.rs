//! Measures the proxy's speed and memory together with those of other proxies, in one run.
//!
//! Every contender of a table is measured once per round, one after the other, so that other load on the machine affects all of
//! them alike. A measurement that fails is reported and makes the run fail; a missed goal does not.
//!
//! Proxies, peers and origins are separate processes: this program started again in a role (`roles`), or a package's program.

mod bulk;
mod forward;
mod lean;
mod load;
mod memory;
mod net;
mod origin;
mod peers;
mod policies;
mod process;
mod report;
mod roles;
mod run;
mod sign;
mod stage;
mod stats;
mod tunnels;

use std::process::ExitCode;

use report::Subject;
use run::Groups;

const SUBJECT: Subject = Subject { name: "egress", title: "Egress proxy: speed and memory" };

const GROUPS: Groups<'_, stage::Stage> = &[
    (&["bulk-down", "bulk-up"], bulk::measure),
    (&["tunnels"], tunnels::measure),
    (&["forward", "forward-half-load"], forward::measure),
    (&["policies", "policies-p99"], policies::measure),
    (&["sign"], sign::measure),
    (&["memory-idle", "memory-bulk"], memory::measure),
];

fn main() -> ExitCode {
    if let Some(code) = roles::play() {
        return code;
    }
    run::main(SUBJECT, GROUPS)
}
