//! Faults of the bucket.

use std::time::Duration;

use nagaya_fixtures::s3::{Fault, SECRET_KEY};
use nagaya_workspace::objects::StorageError;
use tokio::time::Instant;

use crate::support::{bucket, bucket_with, content, read, server, soon};

#[tokio::test]
async fn each_fault_maps_to_its_error_and_passes() {
    let server = server().await;
    let place = bucket(&server).conversation_store("acme", "c1");
    place.write("a", content("x"), soon()).await.expect("writes");
    for fault in [Fault::Refuse, Fault::Down, Fault::Fail, Fault::Hang] {
        server.set_fault(fault).await.expect("sets the fault");
        let until = Instant::now() + Duration::from_secs(2);
        let errors = [
            place.list(until).await.expect_err("list"),
            place.write("b", content("x"), until).await.expect_err("write"),
            place.bucket().ping(until).await.expect_err("ping"),
            place.delete_all(until).await.expect_err("delete"),
        ];
        for error in errors {
            let expected = match fault {
                Fault::Refuse => matches!(error, StorageError::Refused(_)),
                Fault::Down => matches!(error, StorageError::Unreachable(_) | StorageError::Timeout(_)),
                Fault::Fail => matches!(error, StorageError::Failed(_) | StorageError::Timeout(_)),
                _ => matches!(error, StorageError::Timeout(_)),
            };
            assert!(expected, "{fault:?} is reported as {error:?}");
            assert!(!error.to_string().contains(SECRET_KEY));
        }
        server.set_fault(Fault::None).await.expect("sets the fault");
        assert_eq!(read(&place, "a").await, b"x");
    }
}

#[tokio::test]
async fn a_single_failure_is_retried() {
    let server = server().await;
    let place = bucket(&server).conversation_store("acme", "c1");
    server.set_fault(Fault::FailOne(1)).await.expect("sets the fault");
    place.write("a", content("x"), soon()).await.expect("writes");
    let statuses: Vec<u16> = server.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [500, 200]);
    assert_eq!(read(&place, "a").await, b"x");
}

#[tokio::test]
async fn wrong_and_missing_credentials_are_reported_as_refused() {
    let server = server().await;
    let wrong = bucket_with(&server, "another-secret", Duration::from_secs(10));
    let refused = wrong.ping(soon()).await;
    assert!(matches!(refused, Err(StorageError::Refused(_))), "{refused:?}");
    let other = self::server().await;
    let without = nagaya_workspace::objects::BucketSettings {
        name: "not-there".into(),
        prefix: "w/".into(),
        endpoint: Some(other.url()),
        sync_timeout: Duration::from_secs(10),
    };
    let without = nagaya_workspace::objects::Bucket::open(without, "us-east-1", None).expect("a client");
    assert!(matches!(without.ping(soon()).await, Err(StorageError::Refused(_))), "there are no credentials");
}
