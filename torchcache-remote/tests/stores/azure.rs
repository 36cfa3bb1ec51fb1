//! What differs on Azure.

use torchcache_servers::{Azurite, Fault, FaultProxy, Response};
use torchcache_store::remote::ObjectErrorKind;

use crate::servers::check_server;
use crate::support::{remove, soon};
use crate::tier::check_tier;

#[test]
#[ignore = "needs Azurite: cargo xtask servers"]
fn azurite_keeps_the_contract_and_its_objects() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Azurite::start(dir.path()).expect("the server starts");
    check_server(&mut server, 5_000);
}

#[test]
#[ignore = "needs Azurite: cargo xtask servers"]
fn machines_share_rows_by_azurite() {
    let dir = tempfile::tempdir().unwrap();
    check_tier(&mut Azurite::start(dir.path()).expect("the server starts"));
}

/// Azure answers each request of a batch in the body of a success. The variables are those of the program `az`.
#[test]
fn azure_denies_a_removal_in_the_answer_to_a_batch() {
    let proxy = FaultProxy::start(([127, 0, 0, 1], 9).into()).unwrap();
    let variables = [
        (
            "AZURE_STORAGE_ENDPOINT",
            format!("{}/team", proxy.endpoint()),
        ),
        ("AZURE_STORAGE_ACCOUNT", "team".to_owned()),
        ("AZURE_STORAGE_KEY", "c2VjcmV0".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    let it = torchcache_remote::open_with("az://container/a", variables).unwrap();
    let answered = |response| {
        proxy.set_fault(Fault::Answer(response));
        remove(&*it.store, &["a/b"], soon())
    };
    let removed = |status: &str, code: &str| {
        let body = format!(
            "--batch_1\r\nContent-Type: application/http\r\nContent-ID: 0\r\n\r\nHTTP/1.1 {status}\r\n\
             x-ms-error-code: {code}\r\n\r\n\r\n--batch_1--\r\n"
        );
        let content_type = "multipart/mixed; boundary=batch_1";
        answered(Response::new(202, content_type, body.into_bytes()))
    };
    assert_eq!(removed("202 Accepted", ""), Ok(()));
    assert_eq!(removed("404 Not there", "BlobNotFound"), Ok(()));
    let denied = removed("403 Not authorized", "AuthorizationPermissionMismatch");
    assert_eq!(denied, Err(ObjectErrorKind::Denied));
    let busy = removed("503 Busy", "ServerBusy");
    assert_eq!(busy, Err(ObjectErrorKind::Throttled));
    let broken = removed("500 Broken", "InternalError");
    assert_eq!(broken, Err(ObjectErrorKind::Other));
    // The batch as a whole.
    for status in [401, 403] {
        let body = "<Error><Code>AuthorizationFailure</Code><Message>Why</Message></Error>";
        let refused = Response::new(status, "application/xml", body.into());
        assert_eq!(answered(refused), Err(ObjectErrorKind::Denied), "{status}");
    }
}
