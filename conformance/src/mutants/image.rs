//! Workspaces that start from a broken image.

use super::mutant::{Mutant, red};
use crate::target::defects::Defect;

/// Replaces the agent by a shell line; the agent itself stays beside it.
macro_rules! agent {
    ($line:literal) => {
        concat!(
            "mv /usr/local/bin/nagaya-agent /usr/local/bin/nagaya-agent.good\n",
            "printf '%s\\n' '#!/bin/sh' '",
            $line,
            "' 'exec /usr/local/bin/nagaya-agent.good \"$@\"' > /usr/local/bin/nagaya-agent\n",
            "chmod 755 /usr/local/bin/nagaya-agent"
        )
    };
}

/// Replaces the CLI by a shell line, which ends with starting the CLI itself, now beside it.
macro_rules! driver {
    ($line:literal) => {
        concat!(
            "mv /usr/local/bin/claude /usr/local/bin/claude.good\n",
            "cat > /usr/local/bin/claude <<'END-OF-DRIVER'\n#!/bin/bash\n",
            $line,
            "\nEND-OF-DRIVER\nchmod 755 /usr/local/bin/claude"
        )
    };
}

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "driver-of-the-search-path",
        title: "The driver is whatever the search path finds first",
        defects: &[Defect::Image(
            driver!(
                "own=~/.local/bin/claude; [ -x $own ] && [ -z \"$INSIDE\" ] && INSIDE=1 exec $own \"$@\"\nexec claude.good \"$@\""
            ),
            "",
        )],
        red: &[red("SEC-006", "used-program")],
    },
    Mutant {
        id: "settings-of-the-workspace",
        title: "The driver follows settings that a run has left in its workspace",
        defects: &[Defect::Image(
            driver!(
                "for argument; do shift; [ \"$argument\" = --setting-sources= ] || set -- \"$@\" \"$argument\"; done\nexec claude.good \"$@\""
            ),
            "",
        )],
        red: &[red("SEC-006", "used-hook")],
    },
    Mutant {
        id: "output-anybody-can-open",
        title: "The driver's output is a pipe that every process of the workspace can open, and its end is not looked at",
        defects: &[Defect::Image(driver!("claude.good \"$@\" | cat; exit 0"), "")],
        red: &[red("SEC-008", "status in done")],
    },
    Mutant {
        id: "agent-does-not-start",
        title: "The image's default command exits at once",
        defects: &[Defect::Image(agent!("echo no module named agent >&2; exit 1"), "")],
        red: &[red("BUG-08", "no module named agent")],
    },
    Mutant {
        id: "image-for-root",
        title: "The image's default command runs as root",
        defects: &[Defect::Image("true", "USER 0:0")],
        red: &[red("BUG-08", "uid in the workspace")],
    },
    Mutant {
        id: "nobody-at-the-proxys-address",
        title: "Nothing listens at the proxy's address inside a workspace",
        defects: &[Defect::Image(agent!("[ \"$1\" != serve ] || set -- \"$@\" --bridge=127.0.0.1:1024"), "")],
        red: &[red("SOCK-004", "a request that waits")],
    },
    Mutant {
        id: "health-check-cannot-succeed",
        title: "The health check uses a URL scheme that its client does not support",
        defects: &[Defect::Image(
            agent!("[ \"$1\" != health ] || { echo unsupported protocol scheme unix >&2; exit 1; }"),
            "",
        )],
        red: &[red("BUG-09", "healthy, by Docker")],
    },
    Mutant {
        id: "health-check-cannot-fail",
        title: "The health check succeeds whatever the agent does",
        defects: &[Defect::Image(agent!("[ \"$1\" != health ] || exit 0"), "")],
        red: &[red("BUG-09-GONE", "unhealthy, by Docker")],
    },
    Mutant {
        id: "image-lends-rights",
        title: "The image has a setuid program and a world-writable directory",
        defects: &[Defect::Image("chmod 4755 /usr/bin/find; chmod 0777 /usr/local/share", "")],
        red: &[red("IMG-001", "/usr/bin/find")],
    },
    Mutant {
        id: "tool-missing",
        title: "The image has no git",
        defects: &[Defect::Image("rm /usr/bin/git", "")],
        red: &[red("IMG-002", "git --version")],
    },
    Mutant {
        id: "certificates-not-believed",
        title: "Certificates that the builder supplies are copied into the image, but not installed",
        defects: &[Defect::Image("ln -sf /bin/true /usr/sbin/update-ca-certificates", "")],
        red: &[red("IMG-004", "certificate")],
    },
    Mutant {
        id: "memory-lost",
        title: "A later turn begins as if nothing had been said before",
        defects: &[Defect::Image(
            r#"cli="$(readlink -f "$(command -v claude)")"; good="$(dirname "$cli")/good-$(basename "$cli")"; mv "$cli" "$good"
cat > "$cli" <<END
#!/bin/sh
for word do
    shift
    case "\$skip\$word" in
    --resume=*) ;;
    --resume) skip=yes ;;
    yes*) skip= ;;
    *) set -- "\$@" "\$word" ;;
    esac
done
exec "$good" "\$@"
END
chmod 755 "$cli""#,
            "",
        )],
        red: &[red("RUN-030", "in the same workspace")],
    },
    Mutant {
        id: "cli-says-nothing",
        title: "The CLI succeeds without any output",
        defects: &[Defect::Image(
            "cli=\"$(readlink -f \"$(command -v claude)\")\"; rm \"$cli\"; printf '#!/bin/sh\\nexit 0\\n' > \"$cli\"; chmod 755 \"$cli\"",
            "",
        )],
        red: &[red("BUG-10", "status in done")],
    },
];
