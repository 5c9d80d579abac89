"""IANA's registries of special addresses, as data: the block, what it is for, and whether it is globally reachable.

From the IPv4 and IPv6 Special-Purpose Address Registries, and the multicast blocks of the two address space registries.
"""

IPV4 = """
0.0.0.0/8           "This network"                               no
0.0.0.0/32          "This host on this network"                  no
10.0.0.0/8          Private-Use                                  no
100.64.0.0/10       Shared Address Space                         no
127.0.0.0/8         Loopback                                     no
169.254.0.0/16      Link Local                                   no
172.16.0.0/12       Private-Use                                  no
192.0.0.0/24        IETF Protocol Assignments                    no
192.0.0.0/29        IPv4 Service Continuity Prefix               no
192.0.0.8/32        IPv4 dummy address                           no
192.0.0.9/32        Port Control Protocol Anycast                yes
192.0.0.10/32       Traversal Using Relays around NAT Anycast    yes
192.0.0.170/32      NAT64/DNS64 Discovery                        no
192.0.0.171/32      NAT64/DNS64 Discovery                        no
192.0.2.0/24        Documentation (TEST-NET-1)                   no
192.31.196.0/24     AS112-v4                                     yes
192.52.193.0/24     AMT                                          yes
192.88.99.0/24      Deprecated (6to4 Relay Anycast)              no
192.88.99.2/32      6a44-relay anycast address                   no
192.168.0.0/16      Private-Use                                  no
192.175.48.0/24     Direct Delegation AS112 Service              yes
198.18.0.0/15       Benchmarking                                 no
198.51.100.0/24     Documentation (TEST-NET-2)                   no
203.0.113.0/24      Documentation (TEST-NET-3)                   no
224.0.0.0/4         Multicast                                    no
240.0.0.0/4         Reserved                                     no
255.255.255.255/32  Limited Broadcast                            no
"""

IPV6 = """
::1/128             Loopback Address                             no
::/128              Unspecified Address                          no
::ffff:0:0/96       IPv4-mapped Address                          no
64:ff9b::/96        IPv4-IPv6 Translat.                          yes
64:ff9b:1::/48      IPv4-IPv6 Translat.                          no
100::/64            Discard-Only Address Block                   no
100:0:0:1::/64      Dummy IPv6 Prefix                            no
2001::/23           IETF Protocol Assignments                    no
2001::/32           TEREDO                                       no
2001:1::1/128       Port Control Protocol Anycast                yes
2001:1::2/128       Traversal Using Relays around NAT Anycast    yes
2001:1::3/128       DNS-SD Service Registration Protocol Anycast yes
2001:2::/48         Benchmarking                                 no
2001:3::/32         AMT                                          yes
2001:4:112::/48     AS112-v6                                     yes
2001:10::/28        Deprecated (ORCHID)                          no
2001:20::/28        ORCHIDv2                                     yes
2001:30::/28        Drone Remote ID Protocol Entity Tags         yes
2001:db8::/32       Documentation                                no
2002::/16           6to4                                         no
2620:4f:8000::/48   Direct Delegation AS112 Service              yes
3fff::/20           Documentation                                no
5f00::/16           Segment Routing (SRv6) SIDs                  no
fc00::/7            Unique-Local                                 no
fe80::/10           Link-Local Unicast                           no
ff00::/8            Multicast                                    no
"""

# The only block of the IPv6 address space registry from which addresses are given to anybody.
GLOBAL_UNICAST = "2000::/3"
