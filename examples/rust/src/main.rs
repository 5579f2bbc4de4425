use eventsource_stream::Eventsource;
use futures::StreamExt;

#[tokio::main]
async fn main() {
    let server = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8080".into());
    let body =
        serde_json::json!({"subscriptions": [{"id": "m", "sql": "SELECT id, content FROM app.messages"}]});
    let client = reqwest::Client::new();
    let mut last_id = String::new();
    loop {
        let request = client.post(format!("{server}/api/live")).basic_auth("ann", Some("secret")).json(&body);
        let answer = request.header("Last-Event-ID", &last_id).send().await;
        if let Ok(answer) = answer.and_then(|answer| answer.error_for_status()) {
            let mut events = answer.bytes_stream().eventsource();
            while let Some(Ok(event)) = events.next().await {
                println!("{} {}", event.event, event.data);
                last_id = event.id;
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}
