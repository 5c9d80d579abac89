"""What may not be fetched: URLs as they are written, and what names lead to."""

# Each with a word of what the client is told: what is wrong with a URL as it stands is no secret.
REFUSED_AS_WRITTEN = {
    "not public": [
        "http://127.0.0.1/", "http://127.255.255.254/", "http://0.0.0.0/", "http://[::1]/", "http://[::]/",
        "http://[::ffff:127.0.0.1]/", "http://[::127.0.0.1]/", "http://[::10.0.0.1]/", "http://[::ffff:0:127.0.0.1]/",
        "http://[64:ff9b::7f00:1]/", "http://[64:ff9b::808:808]/", "http://[64:ff9b:1::7f00:1]/", "http://[2002:7f00:1::]/",
        "http://[2001:0:4136:e378:8000:63bf:3fff:fdd2]/", "http://[2607:f8b0::5efe:a00:1]/", "http://[fec0::1]/",
        "http://[fc00::1]/", "http://[fd00:ec2::254]/", "http://[fe80::1]/", "http://[ff02::1]/", "http://[100::1]/",
        "http://[5f00::1]/", "http://[3fff::1]/", "http://169.254.169.254/latest/meta-data/", "http://100.64.0.1/",
        "http://100.127.255.255/", "http://10.0.0.1/", "http://172.16.0.1/", "http://172.31.255.255/",
        "http://192.168.0.1/", "http://192.0.0.8/", "http://192.0.2.1/", "http://198.18.0.1/", "http://198.51.100.1/",
        "http://203.0.113.1/", "http://192.88.99.1/", "http://224.0.0.1/", "http://240.0.0.1/", "http://255.255.255.255/",
        "http://localhost/", "http://LOCALHOST/", "http://localhost./", "http://foo.localhost/", "https://127.0.0.1/",
    ],
    "host": [
        "http://0/", "http://2130706433/", "http://0x7f000001/", "http://0x7f.1/", "http://0177.0.0.1/",
        "http://00000177.0.0.1/", "http://127.1/", "http://\uff11\uff12\uff17.\uff10.\uff10.\uff11/", "http://\u2460\u2461\u2466.\u24ea.\u24ea.\u2460/",
        "http://[fe80::1%25eth0]/", "http:///127.0.0.1/", "http://%6c%6f%63alhost/", "http://127.0.0.1%00.good.example/",
        "http://good\u3002example/", "http://soft\u00adhyphen.example/", "http://xn--a/", "http://[::1]x/",
    ],
    "user name or password": ["http://user:pw@good.example/", "http://good.example@127.0.0.1/"],
    "port": [
        "http://good.example:22/", "http://good.example:6379/", "http://good.example:0/", "http://good.example:99999/",
        "http://good.example:080/", "http://good.example:80:80/", "http://good.example:/", "http://[2606:4700::1]:22/",
    ],
    "backslash": [
        "http://good.example\\@127.0.0.1/", "http://127.0.0.1\\@good.example/", "http://127.1.1.1:80\\@127.2.2.2:80/",
        "http://good.example\t/", "http://good.example/\r\nX: y", " http://good.example/", "http://good.example/ ",
        "http://good.example/\u00a0", " ",
    ],
    "must begin with": [
        "http:127.0.0.1/", "//127.0.0.1/", "file:///etc/passwd", "ftp://good.example/", "gopher://good.example/",
        "dict://good.example/", "jar:http://good.example/!/", "unix:/var/run/docker.sock",
        "http+unix://%2Fvar%2Frun%2Fdocker.sock/", "javascript:alert(1)", "blob:http://good.example/x", "s3://bucket/key",
        "null", "/etc/passwd",
    ],
    "is empty": [""],
    "longer than": ["http://good.example/" + "a" * 9000],
}  # fmt: skip

# What a name server could answer, each refused whole and for the one neutral reason.
REFUSED_NAMES = {
    "a service that resolves to what its name says": ["169.254.169.254"],
    "a public name for loopback": ["127.0.0.1"],
    "a name of the hosts file": ["::1"],
    "one answer of two is private": ["8.8.8.8", "10.0.0.1"],
    "the IPv6 answer is private": ["8.8.8.8", "fd00::1"],
    "the IPv4 answer is private": ["2606:4700::1111", "192.168.0.1"],
    "an IPv4 address in an IPv6 one": ["64:ff9b::808:808"],
    "a link-local answer with its interface": ["fe80::1%eth0"],
    "no address at all": ["x"],
    "no answers": [],
}
