package http_test

import (
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/proxyproto"
)

// addCluster is the command "cluster" of TestScripts.
func (s *script) addCluster(d *datadriven.TestData) {
	c := &cluster.Cluster{ID: cluster.ID(len(s.state.clusters)), ConnectTimeout: 10 * time.Second, Limits: &cluster.Limits{}, Health: cluster.NewHealth(s.loop, s.checks)}
	out := func() *outlier.Config {
		if c.Outlier == nil {
			c.Outlier = &outlier.Config{Interval: 10 * time.Second, BaseEjection: 30 * time.Second, MaxEjection: 300 * time.Second, MaxPercent: 100}
		}
		return c.Outlier
	}
	l := c.Limits
	l.MaxConnections.Store(cluster.Unlimited)
	l.MaxPending.Store(cluster.Unlimited)
	l.MaxRequests.Store(cluster.Unlimited)
	l.MaxRetries.Store(cluster.Unlimited)
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "name":
			c.Name = a.Vals[0]
		case "endpoints":
			for _, v := range a.Vals {
				e := &cluster.Endpoint{ID: s.ids, Addr: netip.MustParseAddrPort(v), Limits: l}
				s.ids++
				c.Endpoints = append(c.Endpoints, e)
			}
		case "drop": // of a million
			c.Drop = uint32(number(s.t, a))
		case "max-connections":
			l.MaxConnections.Store(uint32(number(s.t, a)))
		case "max-pending":
			l.MaxPending.Store(uint32(number(s.t, a)))
		case "max-requests":
			l.MaxRequests.Store(uint32(number(s.t, a)))
		case "max-retries":
			l.MaxRetries.Store(uint32(number(s.t, a)))
		case "hash": // header:NAME, query:NAME, cookie:NAME or source
			kind, name, _ := strings.Cut(a.Vals[0], ":")
			k := cluster.HashKey{Source: kind == "source"}
			switch kind {
			case "header":
				k.Header = name
			case "query":
				k.Query = name
			case "cookie":
				k.Cookie, k.Generate, k.SetCookie = name, true, cluster.CookieSuffix("/", time.Hour, [][2]string{{"SameSite", "Lax"}})
			}
			c.Policy, c.TableSize, c.Hash = cluster.RingHash, 1024, append(c.Hash, k)
		case "maglev": // after hash
			c.Policy, c.TableSize = cluster.Maglev, 65537
		case "round-robin":
			c.Policy = cluster.RoundRobin
		case "5xx":
			out().Consecutive[outlier.FiveXX] = uint32(number(s.t, a))
		case "gateway":
			out().Consecutive[outlier.Gateway] = uint32(number(s.t, a))
		case "local":
			out().Split = true
			out().Consecutive[outlier.LocalOrigin] = uint32(number(s.t, a))
		case "sweep":
			out().Interval = duration(s.t, a)
		case "ejection":
			out().BaseEjection = duration(s.t, a)
		case "max-ejected":
			out().MaxPercent = uint32(number(s.t, a))
		case "probes":
			out().Probes = uint32(number(s.t, a))
		case "check": // KIND every interval, timeout, unhealthy, healthy
			c.Check = &cluster.Check{Key: d.Input + a.String(), Kind: map[string]cluster.CheckKind{"tcp": cluster.CheckTCP, "http": cluster.CheckHTTP, "grpc": cluster.CheckGRPC}[a.Vals[0]],
				Method: "GET", Path: "/health", Service: "s", Headers: [][2]string{{"x-check", "1"}}, Retriable: [][2]int{{500, 600}}, Interval: 10 * time.Second, Timeout: time.Second, Unhealthy: 2, Healthy: 2}
		case "budget": // PERCENT, MIN
			percent, min := a.Vals[0], a.Vals[1]
			p, _ := strconv.Atoi(percent)
			n, _ := strconv.Atoi(min)
			l.SetBudget(&cluster.RetryBudget{Percent: float64(p), Min: uint32(n)})
		case "leaving":
			c.Leaving = true
		case "led":
			c.Led = netip.MustParseAddrPort(a.Vals[0])
		case "next": // endpoints that come after those named before
			for range c.Endpoints {
				c.Places = append(c.Places, cluster.Place{})
			}
			for _, v := range a.Vals {
				c.Endpoints = append(c.Endpoints, &cluster.Endpoint{ID: s.ids, Addr: netip.MustParseAddrPort(v), Limits: l})
				c.Places = append(c.Places, cluster.Place{Priority: 1})
				s.ids++
			}
		case "panic":
			c.PanicAt = uint32(number(s.t, a))
		case "http2":
			c.Protocol = cluster.HTTP2
		case "client-protocol":
			c.Protocol = cluster.Downstream
		case "streams":
			c.HTTP2.MaxStreams = uint32(number(s.t, a))
		case "requests-per-connection":
			c.MaxRequestsPerConn = uint32(number(s.t, a))
		case "idle":
			c.IdleTimeout = duration(s.t, a)
		case "original-dst":
			c.Kind = cluster.OriginalDst
			c.LocalAddress = netip.MustParseAddr("127.0.0.1")
		case "destination": // after original-dst
			c.DestinationHeader, c.LocalAddress = a.Vals[0], netip.Addr{}
		case "port":
			c.Port = uint16(number(s.t, a))
		case "names-of": // after endpoints
			for i, v := range a.Vals {
				c.Endpoints[i].Host = v
			}
		case "ring":
			c.Policy, c.TableSize = cluster.RingHash, 1024
		case "names":
			c.HTTP1.Names = names[a.Vals[0]]
		case "head":
			c.ResponseLimits.HeadBytes = number(s.t, a)
		case "stream-max":
			c.MaxStreamDuration = duration(s.t, a)
		case "refused":
			c.Refused = strings.Join(a.Vals, " ")
		case "mesh": // after endpoints
			for _, e := range c.Endpoints {
				e.Workload.Name = "pod"
			}
		case "proxy-protocol": // after endpoints
			for _, e := range c.Endpoints {
				e.Transport.Store(&cluster.Transport{Proxy: proxyproto.V1})
			}
		default:
			d.Fatalf(s.t, "unknown %s", a.Key)
		}
	}
	c.Seal()
	s.setCluster(c)
}
