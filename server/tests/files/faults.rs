//! What a bucket's faults come to.

use std::time::Duration;

use nagaya_fixtures::s3::{Fault, SECRET_KEY};
use nagaya_workspace::objects::StorageError;
use tokio::time::Instant;

use crate::support::{bucket, bucket_with, content, read, server, soon};

#[tokio::test]
async fn each_fault_is_called_by_its_name_and_passes() {
    let server = server().await;
    let place = bucket(&server).conversation_store("acme", "c1");
    place.write("a", content("x"), soon()).await.expect("writes");
    for fault in [Fault::Refuse, Fault::Down, Fault::Fail, Fault::Hang] {
        server.set_fault(fault).await.expect("is set");
        let until = Instant::now() + Duration::from_secs(2);
        let errors = [
            place.list(until).await.expect_err("list"),
            place.write("b", content("x"), until).await.expect_err("write"),
            place.bucket().ping(until).await.expect_err("ping"),
            place.delete_all(until).await.expect_err("delete"),
        ];
        for error in errors {
            let right = match fault {
                Fault::Refuse => matches!(error, StorageError::Refused(_)),
                Fault::Down => matches!(error, StorageError::Unreachable(_) | StorageError::Timeout(_)),
                Fault::Fail => matches!(error, StorageError::Failed(_) | StorageError::Timeout(_)),
                _ => matches!(error, StorageError::Timeout(_)),
            };
            assert!(right, "{fault:?} is told as {error:?}");
            assert!(!error.to_string().contains(SECRET_KEY));
        }
        server.set_fault(Fault::None).await.expect("is set");
        assert_eq!(read(&place, "a").await, b"x");
    }
}

#[tokio::test]
async fn one_failure_is_tried_again_and_nobody_notices() {
    let server = server().await;
    let place = bucket(&server).conversation_store("acme", "c1");
    server.set_fault(Fault::FailOne(1)).await.expect("is set");
    place.write("a", content("x"), soon()).await.expect("writes");
    let statuses: Vec<u16> = server.asked().iter().map(|asked| asked.status).collect();
    assert_eq!(statuses, [500, 200]);
    assert_eq!(read(&place, "a").await, b"x");
}

#[tokio::test]
async fn wrong_credentials_and_a_wrong_bucket_are_told() {
    let server = server().await;
    let wrong = bucket_with(&server, "another-secret", Duration::from_secs(10));
    let refused = wrong.ping(soon()).await;
    assert!(matches!(refused, Err(StorageError::Refused(_))), "{refused:?}");
    let none = self::server().await;
    let elsewhere = nagaya_workspace::objects::BucketSettings {
        name: "not-there".into(),
        prefix: "w/".into(),
        endpoint: Some(none.url()),
        sync_timeout: Duration::from_secs(10),
    };
    let elsewhere = nagaya_workspace::objects::Bucket::open(elsewhere, "us-east-1", None).expect("a client");
    assert!(matches!(elsewhere.ping(soon()).await, Err(StorageError::Refused(_))), "there are no credentials");
}
