//! Files in unusual places, of unusual names and of every length, and how much of them there may be.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::context::Context;
use crate::harness::failure::{Failure, check, check_eq};
use crate::harness::scenario::Scenario;
use crate::harness::vocabulary::{Capability, Profile, Severity};
use crate::scenarios::common::files::{upload, url};
use crate::target::deployment::{Conversation, Deployment};
use crate::target::launch::Launch;

const NEEDS: &[Capability] = &[Capability::Launch, Capability::Docker, Capability::Image, Capability::Files];

pub(super) const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "FILE-014",
        "Files of every name and length are listed, filtered, paged, read and deleted exactly, and are in their place",
        "a list has items (path, size, modified_at), total, limit, offset, complete; names, lengths and modes exact",
        body!(exact),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
    Scenario::new(
        "FILE-015",
        "Files of all directories in memory count together, and one that would leave the agent no memory is refused",
        "files are in the workspace's memory: what would not fit is 413 with the reason, and leaves nothing",
        body!(memory),
    )
    .severity(Severity::High)
    .profile(Profile::Full)
    .requires(NEEDS),
];

/// A page of the list; its files as path and size. Each must have been changed a moment ago.
async fn page(deployment: &Deployment, of: &Conversation, query: &str) -> Result<Value, Failure> {
    let mut page = deployment.api.get(&of.path(&format!("/files{query}"))).await?.expect(200)?.json()?;
    for item in page["items"].as_array_mut().into_iter().flatten() {
        let at = item["modified_at"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok());
        let age = at.map(|at| jiff::Timestamp::now().as_second() - at.as_second());
        check(age.is_some_and(|age| (-2..120).contains(&age)), format!("modified_at of {item}"))?;
        *item = json!([item["path"], item["size"]]);
    }
    Ok(page)
}

fn content(length: usize) -> Bytes {
    (0..=255u8).cycle().take(length).collect()
}

async fn exact(context: &Context) -> Result<(), Failure> {
    let deployment = context.launch(Launch::new().without_model()).await?;
    let conversation = deployment.conversation(context).await?;
    let longest = "n".repeat(255);
    let deep = (0..200).map(|_| "d").collect::<Vec<_>>().join("/");
    // In the order of the list, which is that of the paths' bytes.
    let files: Vec<(String, usize)> = [
        (" leading and trailing ", 0),
        (".hidden", 1),
        ("-rf", 2),
        ("A", 3),
        ("a", 65_535),
        ("a b+c%20d&e=f#g?h", 65_536),
        ("a.b", 65_537),
        ("a/../x is none", 0),
        ("b/a", 200_000),
        ("b/c/d", 5),
        ("outputs/one", 6),
        ("outputsx", 7),
        ("quote\"and'and\\and\nline", 8),
        ("\u{9577}\u{5c4b}/\u{e9}", 9),
    ]
    .into_iter()
    .filter(|(name, _)| !name.contains(".."))
    .map(|(name, length)| (name.to_owned(), length))
    .chain([(longest.clone(), 10), (deep.clone(), 11)])
    .collect();
    for (name, length) in &files {
        let reply = upload(&deployment, &conversation, name, content(*length)).await?;
        reply.expect(204).map_err(|failure| failure.during(format!("upload of {name:?}")))?;
    }
    let mut listed = files.clone();
    listed.sort();
    let items = |of: &[(String, usize)]| of.iter().map(|(path, size)| json!([path, size])).collect::<Vec<_>>();
    let total = listed.len();
    let whole = |items: Vec<Value>, total: usize, limit: usize, offset: usize| json!({"items": items, "total": total, "limit": limit, "offset": offset, "complete": true});
    check_eq("the list", page(&deployment, &conversation, "").await?, whole(items(&listed), total, 1000, 0))?;
    for (limit, offset) in [(1, 0), (3, 2), (total, 0), (total - 1, 1), (5, total - 1), (1, total), (10_000, total + 7)]
    {
        let part = &listed[offset.min(total)..(offset + limit).min(total).max(offset.min(total))];
        let told = page(&deployment, &conversation, &format!("?limit={limit}&offset={offset}")).await?;
        check_eq(format!("{limit} files from {offset} on"), told, whole(items(part), total, limit, offset))?;
    }
    for prefix in ["", "a", "b/", "outputs", "outputs/", "none", "\u{9577}"] {
        let of: Vec<_> = listed.iter().filter(|(path, _)| path.starts_with(prefix)).cloned().collect();
        let encoded: String = prefix.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let told = page(&deployment, &conversation, &format!("?prefix={encoded}")).await?;
        check_eq(format!("files that begin with {prefix:?}"), told, whole(items(&of), of.len(), 1000, 0))?;
    }
    let shown = page(&deployment, &conversation, "/presented").await?;
    check_eq("files that are presented", shown, whole(vec![json!(["outputs/one", 6])], 1, 1000, 0))?;
    for (name, length) in &files {
        let back = deployment.api.get(&url(&conversation, "files/download", name)).await?.expect(200)?;
        check(back.body == content(*length), format!("{} bytes of {name:?} came back, or others", back.body.len()))?;
        check_eq(
            format!("Content-Length of {name:?}"),
            back.header("content-length"),
            Some(length.to_string().as_str()),
        )?;
        check_eq(
            format!("X-Content-Type-Options of {name:?}"),
            back.header("x-content-type-options"),
            Some("nosniff"),
        )?;
    }
    // In the workspace they are its user's own, and nobody else's.
    let room = deployment.only_room().await?;
    let kinds =
        room.shell("find /workspace -mindepth 1 -printf '%y %m %u\\n' | sort | uniq -c | tr -s ' '").await?.printed;
    let me = room.shell("id -un").await?.printed;
    let folders = 199 + 4;
    let expected = format!(" {folders} d 755 {0}\n {total} f 644 {0}\n", me.trim());
    check_eq("kinds, permissions and owners of what is in the workspace", kinds, expected)?;
    refused(&deployment, &conversation, &longest).await?;
    // All of them can go, and only they do.
    for (name, _) in &files[1..] {
        deployment.api.delete(&url(&conversation, "files", name)).await?.expect(204)?;
    }
    check_eq("the list in the end", page(&deployment, &conversation, "").await?, whole(items(&files[..1]), 1, 1000, 0))
}

/// What is in the way of a file, or no name of one, is said, and nothing changes.
async fn refused(deployment: &Deployment, conversation: &Conversation, longest: &str) -> Result<(), Failure> {
    let before = page(deployment, conversation, "").await?;
    let put = async |path: &str| upload(deployment, conversation, path, Bytes::from_static(b"x")).await;
    // A folder where the file should be, and a file where a folder should be.
    for path in ["a/x", "b/a/x/y"] {
        put(path).await?.expect_error(403, "PATH_TRAVERSAL").map_err(|failure| failure.during(path))?;
    }
    check(!put("b").await?.status.is_success(), "a file took the place of a folder")?;
    for path in ["b", "b/c"] {
        let reply = deployment.api.delete(&url(conversation, "files", path)).await?;
        reply.expect_error(403, "PATH_TRAVERSAL").map_err(|failure| failure.during(format!("deletion of {path}")))?;
        let reply = deployment.api.get(&url(conversation, "files/download", path)).await?;
        reply.expect_error(403, "PATH_TRAVERSAL").map_err(|failure| failure.during(format!("download of {path}")))?;
    }
    let too_long = format!("{longest}n");
    for path in [too_long.as_str(), &format!("x/{too_long}"), &"d/".repeat(2048), &format!("{}e", "d/".repeat(2048))] {
        put(path)
            .await?
            .expect_error(422, "VALIDATION_ERROR")
            .map_err(|failure| failure.during(format!("{} bytes", path.len())))?;
    }
    for path in ["a/x", "none", "b/none"] {
        let status = deployment.api.delete(&url(conversation, "files", path)).await?.status;
        check(matches!(status.as_u16(), 403 | 404), format!("deletion of {path}: {status}"))?;
    }
    check_eq("the list after what was refused", page(deployment, conversation, "").await?, before)
}

async fn memory(context: &Context) -> Result<(), Failure> {
    const MIB: usize = 1 << 20;
    let launch = Launch::new().without_model().set("CONTAINER_MEMORY", "512MiB").set("CONTAINER_DISK", "500MiB");
    let deployment = context.launch(launch).await?;
    let conversation = deployment.conversation(context).await?;
    upload(&deployment, &conversation, "first", content(40 * MIB)).await?.expect(204)?;
    let room = deployment.only_room().await?;
    let filled = room.shell("head -c 70M /dev/zero > /tmp/one && head -c 60M /dev/zero > ~/two").await?;
    check_eq(format!("status of a program that writes files: {}", filled.printed), filled.status, 0)?;
    // Of 512 MiB files may take half, and take 170.
    let reply = upload(&deployment, &conversation, "too-much", content(100 * MIB)).await?;
    let why = reply.text();
    reply.expect_error(413, "PAYLOAD_TOO_LARGE")?;
    for part in ["CONTAINER_MEMORY", "512 MiB", "256 MiB"] {
        check(why.contains(part), format!("the reason does not say {part}: {why}"))?;
    }
    let left = room.shell("cd /workspace && find . -type f -printf '%p %s\\n'").await?.printed;
    check_eq("files after what was refused", left.trim(), format!("./first {}", 40 * MIB).as_str())?;
    // What fits is accepted, and so is the rest once there is space.
    upload(&deployment, &conversation, "fits", content(60 * MIB)).await?.expect(204)?;
    check_eq("status of a program that removes a file", room.shell("rm /tmp/one").await?.status, 0)?;
    upload(&deployment, &conversation, "fits-now", content(80 * MIB)).await?.expect(204)?;
    let listed = page(&deployment, &conversation, "").await?;
    let sizes = json!([["first", 40 * MIB], ["fits", 60 * MIB], ["fits-now", 80 * MIB]]);
    check_eq("files in the end", &listed["items"], &sizes)
}
