# Signs and sends a request as an AWS SDK does (Signature Version 4, "Create a signed AWS API request"), by plain HTTP through the
# proxy of the environment. Prints one JSON object: what it signed with, and what came back.
# Arguments: URL, region, access key id, secret access key, session token, body.
import datetime
import hashlib
import hmac
import json
import sys
import urllib.error
import urllib.request
from urllib.parse import quote, urlsplit

target, region, key_id, secret, token, body = sys.argv[1:]
url, service, body = urlsplit(target), "bedrock", body.encode()
now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
headers = {
    "content-type": "application/json",
    "host": url.netloc,
    "x-amz-content-sha256": hashlib.sha256(body).hexdigest(),
    "x-amz-date": now,
    "x-amz-security-token": token,
}
names = ";".join(sorted(headers))
canonical = "\n".join([
    "POST", quote(url.path, safe="/~-._"), url.query,
    *(f"{name}:{headers[name]}" for name in sorted(headers)), "", names, headers["x-amz-content-sha256"],
])
scope = f"{now[:8]}/{region}/{service}/aws4_request"
to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
key = f"AWS4{secret}".encode()
for part in scope.split("/"):
    key = hmac.new(key, part.encode(), "sha256").digest()
signature = hmac.new(key, to_sign.encode(), "sha256").hexdigest()
headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={key_id}/{scope}, SignedHeaders={names}, Signature={signature}"

request = urllib.request.Request(target, data=body, headers=headers, method="POST")
try:
    with urllib.request.urlopen(request, timeout=20) as answer:
        status, text = answer.status, answer.read().decode()
except urllib.error.HTTPError as error:
    status, text = error.code, error.read().decode()
print(json.dumps({"authorization": headers["authorization"], "status": status, "body": text}))
