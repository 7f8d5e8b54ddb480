"""Takes messages, and writes each down as a line of JSON: a mail server and a webhook's, with the decoders of the standard library.

receiver.py DIR smtp|starttls|smtps|http|https: prints its port. DIR/status: what the webhook answers. DIR/tls.pem: certificate and key.
Recipients that begin with 'nobody' are refused; user and password are 'cairn' and 'a secret'.
"""
import base64, email, email.policy, http.server, json, os, socketserver, ssl, sys

folder, kind = sys.argv[1], sys.argv[2]
context = None
if kind in ("starttls", "smtps", "https"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.path.join(folder, "tls.pem"))


def note(what):
    with open(os.path.join(folder, kind + ".jsonl"), "a") as out:
        out.write(json.dumps(what) + "\n")


class Smtp(socketserver.BaseRequestHandler):
    def setup(self):
        self.tls, self.user, self.early = False, None, []
        if kind == "smtps":
            self.begin_tls()
        self.file = self.request.makefile("rwb")

    def begin_tls(self):
        self.request, self.tls = context.wrap_socket(self.request, server_side=True), True
        self.file = self.request.makefile("rwb")

    def say(self, line):
        self.file.write(line.encode() + b"\r\n")
        self.file.flush()

    def line(self):
        return self.file.readline().decode().rstrip("\r\n")

    def handle(self):
        self.say("220 here")
        to, sender = [], None
        while True:
            line = self.line()
            word = line.upper()
            if word.startswith("EHLO"):
                self.say("250-here")
                if kind == "starttls" and not self.tls:
                    self.say("250-STARTTLS")
                elif kind != "smtp":
                    self.say("250-AUTH PLAIN LOGIN" if kind == "starttls" else "250-AUTH LOGIN")
                self.say("250 8BITMIME")
            elif word == "STARTTLS":
                self.say("220 go on")
                self.begin_tls()
            elif word.startswith("AUTH PLAIN "):
                _, user, password = base64.b64decode(line[11:]).decode().split("\0")
                self.log_in(user, password)
            elif word == "AUTH LOGIN":
                self.say("334 VXNlcm5hbWU6")
                user = base64.b64decode(self.line()).decode()
                self.say("334 UGFzc3dvcmQ6")
                self.log_in(user, base64.b64decode(self.line()).decode())
            elif word.startswith("MAIL FROM:"):
                sender = line[10:]
                self.say("250 ok")
            elif word.startswith("RCPT TO:"):
                if "nobody" in line:
                    self.say("550 5.1.1 no such user")
                else:
                    to.append(line[8:])
                    self.say("250 ok")
            elif word == "DATA":
                self.say("354 go on")
                lines = []
                while (one := self.file.readline()) != b".\r\n":
                    if not one.endswith(b"\r\n") or len(one) > 1000 or not one:
                        note({"broken": repr(one)})
                        return
                    lines.append(one[1:] if one.startswith(b".") else one)
                mail = email.message_from_bytes(b"".join(lines), policy=email.policy.default)
                headers = [[name, str(value)] for name, value in mail.items()]
                note({"from": sender, "to": to, "tls": self.tls, "user": self.user, "subject": str(mail["subject"]), "headers": headers, "body": mail.get_content()})
                self.say("250 taken")
            elif word == "QUIT":
                self.say("221 bye")
                return
            elif not word:
                return
            else:
                self.say("500 what")

    def log_in(self, user, password):
        if (user, password) == ("cairn", "a secret"):
            self.user = user
            self.say("235 ok")
        else:
            self.say("535 5.7.8 wrong")


class Web(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            status = int(open(os.path.join(folder, "status")).read())
        except OSError:
            status = 200
        note({"path": self.path, "status": status, "headers": dict((k.lower(), v) for k, v in self.headers.items()), "body": json.loads(body)})
        self.send_response(status)
        if status == 302:
            self.send_header("location", "/elsewhere")
        self.end_headers()
        self.wfile.write(b"said\nso")

    def log_message(self, *args):
        pass


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True

    def handle_error(self, *args):
        pass


server = Server(("127.0.0.1", 0), Web if kind.startswith("http") else Smtp)
if kind == "https":
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
