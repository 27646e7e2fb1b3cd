package cni

import (
	"encoding/json"
	"net"
	"time"
)

// Report is what a call came to, for the node agent's metrics and log.
type Report struct {
	Operation string  `json:"operation"` // ADD
	Pod       string  `json:"pod"`       // namespace/name
	Result    string  `json:"result"`    // captured, ignored or failed
	Error     string  `json:"error,omitempty"`
	Seconds   float64 `json:"seconds"`
}

// MaxReport is more than a report has: errors are cut.
const MaxReport = 4096

// Send writes a report to the agent's socket. An agent that is not there does not matter.
func Send(c *Config, r Report) {
	if len(r.Error) > MaxReport/8 { // JSON may make a byte six, and the names are short
		r.Error = r.Error[:MaxReport/8]
	}
	data, err := json.Marshal(r)
	if err != nil || c.Socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: c.Socket, Net: "unixgram"})
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetWriteDeadline(time.Now().Add(100 * time.Millisecond)) // a full queue: the pod does not wait for it
	_, _ = conn.Write(data)
}

// ReadReport reads what Send wrote.
func ReadReport(data []byte) (Report, error) {
	var r Report
	err := json.Unmarshal(data, &r)
	return r, err
}
