package v1

import "time"

// Limits is GET /api/v1/limits: the limits that calls to a service meet.
type Limits struct {
	Host   string   `json:"host"`
	Limits []Limit  `json:"limits"`
	Asked  int      `json:"asked"`            // proxies
	Silent []string `json:"silent,omitempty"` // those that did not answer
}

// Limit is one limit, of all proxies in which it has the same value.
type Limit struct {
	// Name is requests, pending, connections, requests_per_connection, connection_age, connect_timeout, retries, retry_budget,
	// timeout, attempts, try_timeout, errors_in_a_row, gateway_errors_in_a_row, local_failures_in_a_row, ejected.
	Name   string `json:"name"`
	At     string `json:"at"` // whose proxy applies it: caller or server
	Port   int    `json:"port"`
	Subset string `json:"subset,omitempty"`
	// Scope is of what there may be so many: proxy (all its workers together), connection, request, attempt, endpoint.
	Scope string   `json:"scope"`
	Value *float64 `json:"value"`          // null: there is no such limit
	Unit  string   `json:"unit,omitempty"` // s, %; else a number
	// Default says that no object sets it, SetBy which does.
	Default bool     `json:"default,omitempty"`
	SetBy   *Decider `json:"setBy,omitempty"`
	// Use and Peak are of the proxy with the most, since its process began; Trips of all of them.
	Use     uint64       `json:"use"`
	Peak    uint64       `json:"peak"`
	Trips   uint64       `json:"trips"`
	Proxies []LimitUse   `json:"proxies"`           // by workload; the 20 with the most trips
	Callers []LimitTrips `json:"callers,omitempty"` // whose calls it was reached by; the 20 with the most
}

// LimitUse is what proxies of one workload say of a limit.
type LimitUse struct {
	Workload string `json:"workload"` // namespace/name
	Proxies  int    `json:"proxies"`
	Use      uint64 `json:"use"`
	Peak     uint64 `json:"peak"`
	Trips    uint64 `json:"trips"`
}

// LimitTrips is how often a caller reached a limit.
type LimitTrips struct {
	Workload string `json:"workload"` // namespace/name, or what is known
	Trips    uint64 `json:"trips"`
}

// Ejections is GET /api/v1/ejections: endpoints that proxies have set aside, or had.
type Ejections struct {
	Ejections []Ejection `json:"ejections"`
	Asked     int        `json:"asked"`            // proxies
	Silent    []string   `json:"silent,omitempty"` // those that did not answer
}

// Ejection is one endpoint that a proxy has set aside. Each proxy judges by what it saw itself.
type Ejection struct {
	Proxy    string `json:"proxy"` // namespace/name: who set it aside
	Service  string `json:"service"`
	Port     int    `json:"port"`
	Subset   string `json:"subset,omitempty"`
	Endpoint string `json:"endpoint"`           // address
	Workload string `json:"workload,omitempty"` // namespace/name
	// State is ejected, probed (a few requests try it), returned, unhealthy (active health checks fail), withdrawn (it asked for
	// that, in answer to a check) or silent (it does not answer to connections).
	State  string     `json:"state"`
	Reason string     `json:"reason,omitempty"` // errors_in_a_row, gateway_errors_in_a_row, local_failures_in_a_row
	InARow int        `json:"inARow,omitempty"` // so many
	Status int        `json:"status,omitempty"` // of the last answer; 0: there was none
	Text   string     `json:"text"`             // why, as a sentence
	Since  time.Time  `json:"since"`
	Until  *time.Time `json:"until,omitempty"` // about; null: until checks pass
	Times  int        `json:"times,omitempty"` // how often
}

// Tapped is a line of GET /api/v1/tap: a request that has ended.
type Tapped struct {
	Time         time.Time `json:"time"` // when it came
	ID           string    `json:"id,omitempty"`
	Proxy        string    `json:"proxy"` // namespace/name: who tells
	Source       string    `json:"source,omitempty"`
	Destination  string    `json:"destination,omitempty"`
	Service      string    `json:"service,omitempty"`
	Port         int       `json:"port,omitempty"`
	Protocol     string    `json:"protocol"`
	Transport    string    `json:"transport,omitempty"` // empty: nothing was sent
	Method       string    `json:"method"`
	Authority    string    `json:"authority"`
	Path         string    `json:"path"` // without its query
	Status       int       `json:"status"`
	Flags        string    `json:"flags,omitempty"`
	Cause        string    `json:"cause,omitempty"` // of a failure, as far as this proxy knows it: its own, or that of the proxy whose answer it passed on
	Milliseconds float64   `json:"milliseconds"`
	Dropped      uint64    `json:"dropped,omitempty"` // of this proxy, for want of room, so far
	// Silent is a replica of the control plane (see SilentReplica) whose proxies cannot be asked, for now: nothing else is said then.
	Silent string `json:"silent,omitempty"`
}

// LogLevels is GET and POST /api/v1/log-level: the levels of the logs of proxies.
type LogLevels struct {
	Proxies []LogLevel `json:"proxies"`
	Silent  []string   `json:"silent,omitempty"` // proxies, and control planes, that did not answer
}

// LogLevel is that of one proxy, after what was asked for was done.
type LogLevel struct {
	Proxy   string     `json:"proxy"`             // namespace/name of its workload
	Level   string     `json:"level"`             // debug, info, warn, error
	Usual   string     `json:"usual"`             // that it was started with
	Until   *time.Time `json:"until,omitempty"`   // when it goes back to that by itself
	Refused string     `json:"refused,omitempty"` // why nothing was changed
}
