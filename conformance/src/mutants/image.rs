//! Rooms that start from a broken image.

use super::{Defect, Mutant, red};

/// Puts a line of shell in the agent's place; the agent itself is beside it.
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

pub(super) const MUTANTS: &[Mutant] = &[
    Mutant {
        id: "agent-does-not-start",
        title: "the image's default command ends at once",
        defects: &[Defect::Image(agent!("echo no module named agent >&2; exit 1"), "")],
        red: &[red("BUG-08", "no module named agent")],
    },
    Mutant {
        id: "image-for-root",
        title: "the image's default command runs as root",
        defects: &[Defect::Image("true", "USER 0:0")],
        red: &[red("BUG-08", "uid in the room")],
    },
    Mutant {
        id: "nobody-at-the-proxys-address",
        title: "programs in a room that know a proxy by its address alone find nobody there",
        defects: &[Defect::Image(agent!("[ \"$1\" != serve ] || set -- \"$@\" --bridge=127.0.0.1:1024"), "")],
        red: &[red("SOCK-004", "a request that waits")],
    },
    Mutant {
        id: "health-check-cannot-succeed",
        title: "the health check speaks to the agent in a way that its client does not know",
        defects: &[Defect::Image(
            agent!("[ \"$1\" != health ] || { echo unsupported protocol scheme unix >&2; exit 1; }"),
            "",
        )],
        red: &[red("BUG-09", "healthy, by Docker")],
    },
    Mutant {
        id: "health-check-cannot-fail",
        title: "the health check succeeds whatever the agent does",
        defects: &[Defect::Image(agent!("[ \"$1\" != health ] || exit 0"), "")],
        red: &[red("BUG-09-GONE", "unhealthy, by Docker")],
    },
    Mutant {
        id: "image-lends-rights",
        title: "a program in the image lends root's rights to whoever runs it, and a directory is anybody's to change",
        defects: &[Defect::Image("chmod 4755 /usr/bin/find; chmod 0777 /usr/local/share", "")],
        red: &[red("IMG-001", "/usr/bin/find")],
    },
    Mutant {
        id: "tool-missing",
        title: "the image has no git",
        defects: &[Defect::Image("rm /usr/bin/git", "")],
        red: &[red("IMG-002", "git --version")],
    },
    Mutant {
        id: "certificates-not-believed",
        title: "certificates that the builder gives are put into the image, and nobody is told of them",
        defects: &[Defect::Image("ln -sf /bin/true /usr/sbin/update-ca-certificates", "")],
        red: &[red("IMG-004", "certificate")],
    },
    Mutant {
        id: "memory-lost",
        title: "a later turn begins as if nothing had been said before",
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
        red: &[red("RUN-030", "in the same room")],
    },
    Mutant {
        id: "cli-says-nothing",
        title: "the CLI ends well and has said nothing",
        defects: &[Defect::Image(
            "cli=\"$(readlink -f \"$(command -v claude)\")\"; rm \"$cli\"; printf '#!/bin/sh\\nexit 0\\n' > \"$cli\"; chmod 755 \"$cli\"",
            "",
        )],
        red: &[red("BUG-10", "status in done")],
    },
];
