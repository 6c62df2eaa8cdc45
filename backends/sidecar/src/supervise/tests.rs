//! The server as clients of every age see it, through its socket.

use super::*;
use bottle_policy::{AuthScheme, message::Answer};
use hyper::header::HeaderValue;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::timeout,
};

#[test]
fn only_the_capability_opens_it() {
    let with = |value: &str| HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())]);
    for value in ["Bearer secret", "bearer secret"] {
        assert!(knows_capability(&with(value), b"secret"), "{value}");
    }
    for value in ["Bearer secre", "Bearer secretx", "Bearer ", "Bearer", "Basic secret", "secret", "", "Bearer  secret"]
    {
        assert!(!knows_capability(&with(value), b"secret"), "{value}");
    }
    assert!(!knows_capability(&HeaderMap::new(), b"secret"));
}

#[test]
fn an_agent_learns_where_it_may_go_and_no_more() {
    let auth = Some(Auth { scheme: AuthScheme::Bearer, secret: "$HOST_VARIABLE".into() });
    let route = Route { ports: vec![443], auth, ..Route::to("a.example") };
    let policy = Policy {
        routes: vec![route],
        own_addresses: vec![[198, 51, 100, 1].into()],
        upstream_ca_pem: Some("x".into()),
        ..Policy::default()
    };
    let shown = serde_json::to_string(&shown(&policy)).unwrap();
    assert!(shown.contains("a.example") && !shown.contains("HOST_VARIABLE") && !shown.contains("198.51"), "{shown}");
}

/// A server on an address of its own, with a host that a test plays.
struct Server {
    address: std::net::SocketAddr,
    feed: Feed,
    answers: UnboundedSender<(String, Answer)>,
    _reloads: UnboundedSender<Policy>,
}

const NEW_VERSION: &str = "2026-07-28";

impl Server {
    async fn start() -> Self {
        static NEXT: AtomicU8 = AtomicU8::new(2);
        let bind: IpAddr = [127, 0, 99, NEXT.fetch_add(1, Ordering::SeqCst)].into();
        let ((reload, reloads), (answer, answers)) = (unbounded_channel(), unbounded_channel());
        let mut secrets = Secrets::default();
        secrets.insert(CAPABILITY, Secret::new("secret"));
        let policy = Policy { routes: vec![Route::to("known.example")], ..Policy::default() };
        let (start, feed) = (DaemonStart { bind, policy, scratch: None }, Feed::default());
        let own = feed.clone();
        tokio::spawn(async move { serve(start, &[], secrets, reloads, answers, own).await.unwrap() });
        let server = Self { address: (bind, SUPERVISE_PORT).into(), feed, answers: answer, _reloads: reload };
        server.reported(|word| matches!(word, DaemonUp::Listening).then_some(())).await;
        server
    }

    /// Waits for a report of that kind.
    async fn reported<T>(&self, wanted: impl Fn(DaemonUp) -> Option<T>) -> T {
        let look = async {
            loop {
                if let Some(found) = self.feed.reported().into_iter().find_map(&wanted) {
                    return found;
                }
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(Duration::from_secs(60), look).await.expect("it is reported")
    }

    async fn proposed(&self) -> String {
        self.reported(|word| match word {
            DaemonUp::Proposal(id, _) => Some(id),
            _ => None,
        })
        .await
    }

    /// Every proposal that has come, one at least.
    async fn proposed_all(&self) -> Vec<String> {
        loop {
            let words = self.feed.reported().into_iter();
            let ids = words.filter_map(|word| match word {
                DaemonUp::Proposal(id, _) => Some(id),
                _ => None,
            });
            let ids: Vec<String> = ids.collect();
            if !ids.is_empty() {
                return ids;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn answer(&self, id: &str, answer: Answer) {
        self.answers.send((id.to_owned(), answer)).unwrap();
    }

    async fn connect(&self, head: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!("{head}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        // A server that has answered already may not read the rest.
        let _ = stream.write_all(request.as_bytes()).await;
        stream
    }

    /// A whole exchange: the status, and what came with it.
    async fn ask(&self, head: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect(head, body).await;
        let mut answer = vec![];
        let _ = timeout(Duration::from_secs(60), stream.read_to_end(&mut answer)).await.expect("it answers");
        let text = String::from_utf8_lossy(&answer).into_owned();
        (text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default(), text)
    }

    async fn call(&self, version: &str, body: Value) -> (u16, String) {
        self.ask(&head("supervise:9100", "Bearer secret", version, &body), &body.to_string()).await
    }
}

/// A POST's, as a client of that version of the protocol sends it.
fn head(host: &str, authorization: &str, version: &str, body: &Value) -> String {
    let mut head = format!(
        "POST / HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMcp-Protocol-Version: {version}\r\n"
    );
    if version == NEW_VERSION {
        head += &format!("Mcp-Method: {}\r\n", body["method"].as_str().unwrap_or_default());
        if let Some(name) = body["params"]["name"].as_str() {
            head += &format!("Mcp-Name: {name}\r\n");
        }
    }
    head
}

fn request(version: &str, method: &str, mut params: Value) -> Value {
    if version == NEW_VERSION {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": version,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        });
    }
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

fn propose(host: &str) -> Value {
    let arguments = json!({"routes": [{"host": host}], "justification": "it is needed"});
    json!({"name": "egress-block", "arguments": arguments, "_meta": {"progressToken": 1}})
}

const VERSIONS: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", NEW_VERSION];

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_every_version_find_the_tools_and_use_them() {
    let server = Server::start().await;
    for version in VERSIONS {
        if version != NEW_VERSION {
            let client = json!({"name": "test", "version": "1"});
            let begin = json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client});
            let (status, text) = server.call(version, request(version, "initialize", begin)).await;
            assert!(status == 200 && text.contains(version) && text.contains("bottle-supervise"), "{version}: {text}");
            let (status, _) =
                server.call(version, json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
            assert_eq!(status, 202, "{version}");
        }
        let (status, text) = server.call(version, request(version, "tools/list", json!({}))).await;
        assert_eq!(status, 200, "{version}: {text}");
        for tool in ["list-egress-routes", "egress-block", "pipelock-block", "capability-block"] {
            assert!(text.contains(&format!("\"{tool}\"")), "{version}: {text}");
        }
        let list = json!({"name": "list-egress-routes", "arguments": {}});
        let (status, text) = server.call(version, request(version, "tools/call", list)).await;
        assert!(status == 200 && text.contains("known.example"), "{version}: {text}");
        let refused = request(version, "tools/call", propose("10.0.0.1"));
        let (status, text) = server.call(version, refused).await;
        assert!(status == 200 && text.contains("private") && text.contains("\"isError\":true"), "{version}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_capability_or_by_another_name_every_request_is_refused() {
    let server = Server::start().await;
    let body = request(VERSIONS[3], "tools/list", json!({}));
    for (host, authorization, extra, expected) in [
        ("supervise:9100", "Bearer wrong", "", 401),
        ("supervise:9100", "Basic secret", "", 401),
        ("supervise:9100", "", "", 401),
        ("evil.example", "Bearer secret", "", 403),
        ("127.0.0.1:9100", "Bearer secret", "", 403),
        ("supervise:9100", "Bearer secret", "Origin: http://evil.example\r\n", 403),
        ("supervise:9100", "Bearer secret", "Origin: http://supervise:9100\r\n", 403),
        ("supervise:9100", "Bearer secret", "", 200),
    ] {
        let head = head(host, authorization, VERSIONS[3], &body) + extra;
        let (status, text) = server.ask(&head, &body.to_string()).await;
        assert_eq!(status, expected, "{host} {authorization} {extra}: {text}");
    }
    for method in ["GET", "DELETE", "PUT", "OPTIONS"] {
        let (status, text) = server.ask(&format!("{method} / HTTP/1.1\r\nHost: supervise:9100\r\n"), "").await;
        assert_eq!(status, 401, "{method}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_the_next_one_answered() {
    let server = Server::start().await;
    let version = VERSIONS[3];
    let head = |body: &Value| head("supervise:9100", "Bearer secret", version, body);
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for body in [
        "",
        "{",
        "null",
        "[]",
        "{}",
        r#"{"jsonrpc":"1.0","id":1,"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":{},"method":"tools/list"}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":[]}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nobody"}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"no/such"}"#,
        "\u{0}\u{1}",
        &deep,
        &" ".repeat(MAX_BODY + 1),
        &json!({"jsonrpc": "2.0", "id": 1, "method": "x".repeat(MAX_BODY)}).to_string(),
    ] {
        let (status, text) = server.ask(&head(&Value::Null), body).await;
        // One that is far too long may be cut off before it has heard why.
        let answered = status == 0 && body.len() > MAX_BODY || status >= 400 || text.contains("\"error\"");
        assert!(answered, "{}: {status} {text}", body.chars().take(80).collect::<String>());
    }
    let list = request(version, "tools/list", json!({}));
    assert_eq!(server.call(version, list).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_with_progress_and_may_be_asked_for_again() {
    let server = Server::start().await;
    let call = request(VERSIONS[3], "tools/call", propose("new.example"));
    let head = head("supervise:9100", "Bearer secret", VERSIONS[3], &call);
    let mut stream = server.connect(&head, &call.to_string()).await;
    let id = server.proposed().await;
    server.answer(&id, Answer::Pending);
    let mut seen = String::new();
    let mut chunk = [0; 4096];
    while !seen.contains("notifications/progress") {
        let length = timeout(Duration::from_secs(60), stream.read(&mut chunk)).await.expect("progress").unwrap();
        assert!(length > 0, "{seen}");
        seen += &String::from_utf8_lossy(&chunk[..length]);
    }
    assert!(seen.contains("text/event-stream") && seen.contains(&id), "{seen}");
    // Its client goes away, and comes back.
    drop(stream);
    let again = json!({"name": "egress-block", "arguments": {"pending_id": id}});
    let again = request(VERSIONS[3], "tools/call", again);
    let asked = async {
        let asked = server.reported(|word| match word {
            DaemonUp::Asked(id) => Some(id),
            _ => None,
        });
        let id = asked.await;
        server.answer(&id, Answer::Rejected { reason: "use the mirror".into() });
    };
    let ((status, text), ()) = tokio::join!(server.call(VERSIONS[3], again), asked);
    assert!(status == 200 && text.contains("use the mirror") && text.contains("\"isError\":true"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_calls_at_once_are_answered_or_refused() {
    let server = Arc::new(Server::start().await);
    let calls: Vec<_> = (0..1000)
        .map(|n| {
            let server = server.clone();
            let call = request(VERSIONS[3], "tools/call", propose(&format!("host{n}.example")));
            tokio::spawn(async move { server.call(VERSIONS[3], call).await })
        })
        .collect();
    // The host answers whatever comes, until all are through.
    let host = server.clone();
    let answering = tokio::spawn(async move {
        loop {
            let id = host.proposed_all().await;
            id.iter().for_each(|id| host.answer(id, Answer::Approved { note: String::new() }));
        }
    });
    let (mut approved, mut refused) = (0, 0);
    for call in calls {
        let (status, text) = call.await.unwrap();
        assert_eq!(status, 200, "{text}");
        match (text.contains("was approved"), text.contains("too many")) {
            (true, false) => approved += 1,
            (false, true) => refused += 1,
            _ => panic!("{text}"),
        }
    }
    answering.abort();
    assert!(approved > 0 && approved + refused == 1000, "{approved} approved, {refused} refused");
}
