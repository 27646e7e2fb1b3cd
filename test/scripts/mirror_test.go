package scripts

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"
)

// A copy has the request's body, whatever its size; and a mirror that takes nothing costs the caller nothing.
func TestMirrorsGetBodies(t *testing.T) {
	st := newStage(t)
	st.Config("script.yaml", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec: {host: echo, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
  - route: [{destination: {host: echo, subset: v1, port: {number: 8080}}}]
    mirror: {host: echo, subset: v2, port: {number: 8080}}
`)
	client, v1, v2 := st.cast["client"], st.cast["echo-v1"], st.cast["echo-v2"]
	for _, size := range []int{1, 40 << 10, 700 << 10} {
		before := len(v2.LoggedWith("-shadow"))
		r := client.Do(http.MethodPost, "http://echo:8080/x", bytes.Repeat([]byte("x"), size))
		if got := r.Report(t); got.Hostname != "echo-v1" || got.Body.Bytes != int64(size) {
			t.Fatalf("%d bytes: %v", size, r)
		}
		st.Eventually("the copy arrives whole", func() error {
			lines := v2.LoggedWith("-shadow")
			if len(lines) == before {
				return errors.New("no copy has arrived")
			}
			if l := lines[len(lines)-1]; !strings.Contains(l, " "+strconv.Itoa(size)+" ") || !strings.Contains(l, "echo-shadow:8080") {
				return errors.New("it came as " + l)
			}
			return nil
		})
	}
	v2.StopApp()
	for range 20 {
		if r := client.Do(http.MethodPost, "http://echo:8080/x?delay=1ms", bytes.Repeat([]byte("x"), 700<<10)); r.Report(t).Hostname != "echo-v1" {
			t.Fatal(r)
		}
	}
	if lines := v1.LoggedWith("-shadow"); len(lines) > 0 {
		t.Errorf("copies went to v1: %v", lines)
	}
	// What reads nothing: the copy is given up, the caller is served.
	if r := client.Do(http.MethodPost, "http://echo:8080/x?read=none", bytes.Repeat([]byte("x"), 64<<10)); r.Err != nil || r.Status != 200 {
		t.Error(r)
	}
}
