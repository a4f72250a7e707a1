# What Python programs do: urllib of the standard library, and requests (as pip brings it along). Prints one JSON object.
# Arguments: base of an HTTP URL, of an HTTPS URL, the authority's certificate, a name that is refused.
import json
import ssl
import sys
import urllib.error
import urllib.request

http, https, ca, refused = sys.argv[1:]
told = {}

context = ssl.create_default_context(cafile=ca)
for name, base in (("http", http), ("https", https)):
    with urllib.request.urlopen(f"{base}/echo?urllib={name}", context=context, timeout=10) as answer:
        told[f"urllib {name}"] = json.load(answer)["query"]
for name in ("http", "https"):
    try:
        urllib.request.urlopen(f"{name}://{refused}/echo?urllib=refused", context=context, timeout=10)
    except urllib.error.HTTPError as error:
        told[f"urllib refused {name}"] = f"{error.code} {json.load(error)['error']['code']}"
    except urllib.error.URLError as error:
        told[f"urllib refused {name}"] = str(error.reason)

try:
    import requests
except ImportError:
    from pip._vendor import requests

with requests.Session() as session:
    for name, base in (("http", http), ("https", https)):
        # Twice, so that the connection is used again.
        for number in ("1", "2"):
            # In pieces of which nobody knows the number beforehand. Not over HTTPS: before 2.32 requests then forgets the proxy.
            body = (piece for piece in (b"in ", b"pieces")) if name == "http" else b"in pieces"
            answer = session.post(f"{base}/echo?requests={name}{number}", data=body, verify=ca, timeout=10)
            answer.raise_for_status()
            told[f"requests {name} {number}"] = answer.json()["body_bytes"]
    answer = session.get(f"http://{refused}/echo?requests=refused", timeout=10)
    told["requests refused http"] = f"{answer.status_code} {answer.json()['error']['code']}"
    try:
        session.get(f"https://{refused}/echo?requests=refused", verify=ca, timeout=10)
    except requests.exceptions.ProxyError as error:
        told["requests refused https"] = str(error)
print(json.dumps(told))
