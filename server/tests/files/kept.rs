//! One conversation's objects in the bucket: files of any name are stored and read back, and those of others stay untouched.

use nagaya_fixtures::s3::Fault;
use nagaya_workspace::objects::{Manifest, ManifestEntry, StorageError};

use crate::support::{bucket, content, place, read, server, soon};

#[tokio::test]
async fn a_file_of_any_name_is_written_listed_and_read() {
    let server = server().await;
    let place = place(&server);
    let longest = "a".repeat(255);
    for path in ["a.txt", "src/a b+c%&=?.rs", "長屋/ファイル", "...", "new\nline", "\\", longest.as_str()] {
        place
            .write(path, content(format!("of {path}")), soon())
            .await
            .unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(read(&place, path).await, format!("of {path}").into_bytes());
    }
    let listed = place.list(soon()).await.expect("lists");
    assert_eq!(listed.len(), 7);
    assert!(listed.iter().any(|file| file.path == "new\nline" && file.size == 11), "{listed:?}");
    // Objects that another client has put under the prefix are not files.
    server.put("workspaces/acme/c1/files/%2E%2E/passwd", "x");
    server.put("workspaces/acme/c1/files/a%2fb", "x");
    assert_eq!(place.list(soon()).await.expect("lists").len(), 7);
    assert!(!place.accepts("../up") && !place.accepts("/etc/passwd") && !place.accepts(&"a/".repeat(600)));
    let refused = place.write("../up", content("x"), soon()).await;
    assert!(matches!(refused, Err(StorageError::NotFound(_))), "{refused:?}");
    place.delete(["a.txt".to_owned(), "not there".to_owned()], soon()).await.expect("deletes");
    assert!(matches!(place.read("a.txt", soon()).await, Err(StorageError::NotFound(_))));
}

#[tokio::test]
async fn a_large_file_is_uploaded_in_parts_and_a_failed_upload_leaves_nothing() {
    let server = server().await;
    let place = place(&server);
    let large: Vec<u8> = (0..20_000_000u32).map(|at| u8::try_from(at % 251).expect("small")).collect();
    place.write("large", content(large.clone()), soon()).await.expect("writes");
    assert!(read(&place, "large").await == large, "the content differs");
    assert_eq!(server.requests().iter().filter(|request| request.path.contains("partNumber=")).count(), 3);
    // The third part is refused: the object stays as it was, and no upload is left open.
    let before = server.requests().len();
    server.set_fault(Fault::Refuse).await.expect("sets the fault");
    place.write("large", content(large), soon()).await.expect_err("is refused");
    assert!(server.requests().len() > before);
    server.set_fault(Fault::None).await.expect("sets the fault");
    let breaking = futures::stream::iter([Ok(vec![7; 9 << 20].into()), Err(StorageError::Failed("breaks".into()))]);
    place.write("large", Box::pin(breaking), soon()).await.expect_err("breaks off");
    assert_eq!(server.open_uploads(), 0, "an upload is left open");
    assert_eq!(read(&place, "large").await.len(), 20_000_000);
}

#[tokio::test]
async fn deleting_a_conversations_files_leaves_those_of_other_conversations() {
    let server = server().await;
    let bucket = bucket(&server);
    let (mine, longer, other) = (
        bucket.conversation_store("acme", "c1"),
        bucket.conversation_store("acme", "c11"),
        bucket.conversation_store("b/c", "c1"),
    );
    for place in [&mine, &longer, &other] {
        for number in 0..3 {
            place.write(&format!("{number}"), content("x"), soon()).await.expect("writes");
        }
        place.set_manifest(&Manifest::default(), soon()).await.expect("writes");
    }
    // More than one page of a list, and more than one request deletes.
    (0..2500).for_each(|number| server.put(&format!("workspaces/acme/c1/files/many/{number}"), "x"));
    mine.delete_all(soon()).await.expect("deletes");
    let left = server.objects();
    assert!(!left.keys().any(|key| key.starts_with("workspaces/acme/c1/")), "{left:?}");
    assert_eq!(left.len(), 8);
    assert!(left.contains_key("workspaces/b%2Fc/c1/files/0"), "{:?}", left.keys());
}

#[tokio::test]
async fn a_manifest_is_read_back_and_an_invalid_one_counts_as_missing() {
    let server = server().await;
    let place = place(&server);
    assert_eq!(place.manifest(soon()).await.expect("reads"), Manifest::default());
    let kept = ManifestEntry { size: 1, sha256: "ab".into(), mode: 0o600 };
    let manifest = Manifest { room: Some("r".into()), files: [("a".to_owned(), kept)].into() };
    place.set_manifest(&manifest, soon()).await.expect("writes");
    assert_eq!(place.manifest(soon()).await.expect("reads"), manifest);
    server.put("workspaces/acme/c1/manifest.json", "{\"room\": 7");
    assert_eq!(place.manifest(soon()).await.expect("reads"), Manifest::default());
}
