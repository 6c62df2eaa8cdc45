//! A stand-in for the model's API: it answers what Claude Code asks, and lets a test play the agent.
//!
//! Lines of the newest user prompt that begin with `@@` are played in order, one per turn of the model:
//!
//! ```text
//! @@bash COMMAND          a call of the tool Bash
//! @@tool NAME {"json":1}  a call of that tool
//! @@say TEXT              ends the turn with that text
//! @@fail                  refuses the request, as the API does (403): the agent ends with 1
//! ```
//!
//! When they are used up the turn ends with JSON, `{"results":[{"is_error":…,"text":…}]}`: what every tool gave back.
//! Without such a line the answer is `stand-in: <the prompt's last line>`. All state is in the conversation.

use crate::{lab::Lab, wire::Authority};
use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{AUTHORIZATION, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Seen {
    /// Method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header names in lower case and values.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Bytes,
}

impl Seen {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// The stand-in, listening with TLS on port 443 of an address of the lab.
pub struct Standin {
    /// Its address.
    pub address: Ipv4Addr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    /// What `/gate` answers: 200 once it is open, 404 before.
    gate: AtomicBool,
    credential: String,
}

impl Standin {
    /// Serves as `hosts`; anything but `credential` (the whole header: `Bearer …`, or the key) gets 401 on the API.
    pub fn start(authority: &Authority, hosts: &[&str], credential: &str) -> Result<Self> {
        let address = Lab::address()?;
        let listener = Lab::listen((address, 443).into())?;
        listener.set_nonblocking(true)?;
        let acceptor = TlsAcceptor::from(authority.server_config(hosts)?);
        let shared = Arc::new(Shared { credential: credential.to_owned(), ..Shared::default() });
        let serving = shared.clone();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    let (acceptor, shared) = (acceptor.clone(), serving.clone());
                    tokio::spawn(async move {
                        let Ok(tls) = acceptor.accept(stream).await else {
                            return;
                        };
                        let service = service_fn(move |request| answer(request, shared.clone()));
                        let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
                    });
                }
                #[allow(unreachable_code)]
                anyhow::Ok(())
            })
        });
        Ok(Self { address, shared })
    }

    /// Everything that arrived so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().map(|seen| seen.clone()).unwrap_or_default()
    }

    /// From now on `/gate` answers 200.
    pub fn open_gate(&self) {
        self.shared.gate.store(true, Ordering::SeqCst);
    }
}

async fn answer(request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
    let header = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned();
    let given = Some(header(AUTHORIZATION.as_str())).filter(|v| !v.is_empty()).unwrap_or_else(|| header("x-api-key"));
    if let Ok(mut log) = shared.seen.lock() {
        log.push(Seen {
            method: head.method.to_string(),
            path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            headers: head
                .headers
                .iter()
                .map(|(n, v)| (n.as_str().to_owned(), String::from_utf8_lossy(v.as_bytes()).into_owned()))
                .collect(),
            body: body.clone(),
        });
    }
    Ok(match (&head.method, head.uri.path()) {
        (&Method::POST, "/v1/messages") if given != shared.credential => {
            error(StatusCode::UNAUTHORIZED, "authentication_error", "stand-in: not the expected credential")
        }
        (&Method::POST, "/v1/messages") => match serde_json::from_slice::<Value>(&body) {
            Ok(body) => messages(&body),
            Err(_) => error(StatusCode::BAD_REQUEST, "invalid_request_error", "stand-in: not JSON"),
        },
        (_, "/gate") if shared.gate.load(Ordering::SeqCst) => reply(StatusCode::OK, &json!({"gate": "open"})),
        (_, "/api/hello" | "/v1/oauth/hello") => reply(StatusCode::OK, &json!({"message": "hello"})),
        _ => error(StatusCode::NOT_FOUND, "not_found_error", "stand-in: no such path"),
    })
}

fn messages(body: &Value) -> Response<Full<Bytes>> {
    let Some((content, stop)) = turn(body) else {
        return error(StatusCode::FORBIDDEN, "permission_error", "stand-in: told to fail");
    };
    // The client joins messages that have one id, in another order than they came in.
    let id = format!("msg_{:024}", body["messages"].as_array().map_or(0, Vec::len));
    let message = json!({
        "id": id, "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": stop, "stop_sequence": null,
        "usage": {"input_tokens": 10, "output_tokens": 5, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
    });
    if body["stream"] != json!(true) {
        return reply(StatusCode::OK, &message);
    }
    let mut response = Response::new(Full::new(events(&message).into()));
    let stream = hyper::header::HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(CONTENT_TYPE, stream);
    response
}

/// The server-sent events of a message, in the API's order.
fn events(message: &Value) -> String {
    let mut out = String::new();
    let mut event = |name: &str, mut data: Value| {
        data["type"] = name.into();
        out += &format!("event: {name}\ndata: {data}\n\n");
    };
    let mut begun = message.clone();
    (begun["content"], begun["stop_reason"]) = (json!([]), Value::Null);
    event("message_start", json!({"message": begun}));
    for (index, block) in message["content"].as_array().into_iter().flatten().enumerate() {
        let (empty, delta) = if block["type"] == "text" {
            (json!({"type": "text", "text": ""}), json!({"type": "text_delta", "text": block["text"]}))
        } else {
            let mut empty = block.clone();
            empty["input"] = json!({});
            let input = block["input"].to_string();
            (empty, json!({"type": "input_json_delta", "partial_json": input}))
        };
        event("content_block_start", json!({"index": index, "content_block": empty}));
        event("content_block_delta", json!({"index": index, "delta": delta}));
        event("content_block_stop", json!({"index": index}));
    }
    let stop = json!({"stop_reason": message["stop_reason"], "stop_sequence": null});
    event("message_delta", json!({"delta": stop, "usage": message["usage"]}));
    event("message_stop", json!({}));
    out
}

/// The model's next turn: its content, and why it stops; none where it is to fail.
fn turn(body: &Value) -> Option<(Value, &'static str)> {
    let said = |text: String| Some((json!([{"type": "text", "text": text}]), "end_turn"));
    let empty = vec![];
    let users: Vec<&Value> =
        body["messages"].as_array().unwrap_or(&empty).iter().filter(|m| m["role"] == "user").collect();
    let newest = users.iter().rposition(|m| !prompt(m).is_empty()).unwrap_or_default();
    let prompt = users.get(newest).map(|m| prompt(m)).unwrap_or_default();
    let steps: Vec<&str> = prompt.lines().filter_map(|line| line.strip_prefix("@@")).collect();
    if steps.is_empty() {
        return said(format!("stand-in: {}", prompt.lines().last().unwrap_or_default()));
    }
    let results: Vec<&Value> = users.iter().skip(newest + 1).flat_map(|m| tool_results(m)).collect();
    let Some(step) = steps.get(results.len()) else {
        let done: Vec<Value> = results
            .iter()
            .map(|r| json!({"is_error": r["is_error"] == json!(true), "text": text(&r["content"])}))
            .collect();
        return said(json!({ "results": done }).to_string());
    };
    let (verb, rest) = step.split_once(' ').unwrap_or((step, ""));
    let (name, input) = match verb {
        "bash" => ("Bash", json!({"command": rest, "description": "stand-in"})),
        "tool" => {
            let (name, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
            (name, serde_json::from_str(input).unwrap_or_default())
        }
        "fail" => return None,
        _ => return said(rest.to_owned()),
    };
    // Of its own in the whole conversation, which may be an earlier session's: the client drops what it knows already.
    let id = format!("toolu_{:024}", users.iter().flat_map(|m| tool_results(m)).count());
    Some((json!([{"type": "tool_use", "id": id, "name": name, "input": input}]), "tool_use"))
}

/// What a person, or the test, wrote: no results of tools, none of the reminders that the client adds.
fn prompt(message: &Value) -> String {
    let mut rest = text(&message["content"]);
    while let (Some(from), Some(to)) = (rest.find("<system-reminder>"), rest.find("</system-reminder>")) {
        rest.replace_range(from..(to + "</system-reminder>".len()).max(from), "");
    }
    let rest = rest.trim();
    // After a request that failed the next prompt stands beside the last results.
    let is_one = tool_results(message).is_empty() || rest.lines().any(|line| line.starts_with("@@"));
    if is_one { rest.to_owned() } else { String::new() }
}

fn tool_results(message: &Value) -> Vec<&Value> {
    message["content"].as_array().into_iter().flatten().filter(|block| block["type"] == "tool_result").collect()
}

fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        _ => String::new(),
    }
}

fn error(status: StatusCode, kind: &str, message: &str) -> Response<Full<Bytes>> {
    reply(status, &json!({"type": "error", "error": {"type": kind, "message": message}}))
}

fn reply(status: StatusCode, value: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(value.to_string().into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("application/json"));
    response
}
