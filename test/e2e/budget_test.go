package e2e_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Where everything fails at once, a retry budget lets few of it be tried again, whatever the
// workers; without one all of it is.
func TestRetryBudgetBoundsRetries(t *testing.T) {
	t.Parallel()
	const calls, attempts = 24, 2
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	routes := virtualService("echo", fmt.Sprintf("{hosts: [echo], http: [{retries: {attempts: %d, retryOn: 5xx, backoff: 1ms}, route: [{destination: {host: echo, port: {number: 8080}}}]}]}", attempts))
	tries := func(name string, least int) (n int) {
		var all sync.WaitGroup
		for i := range calls {
			all.Go(func() {
				if r := client.Get(fmt.Sprintf("http://echo:8080/%s/%d?status=503&delay=400ms", name, i)); r.Status != http.StatusServiceUnavailable {
					t.Errorf("%s %d: %v", name, i, r)
				}
			})
		}
		all.Wait()
		m.Eventually(fmt.Sprintf("%d attempts are logged", least), func() error { // each is once it has ended, which the caller may know before
			if n = len(pods[0].LoggedWith("/" + name + "/")); n < least {
				return fmt.Errorf("%d are", n)
			}
			return nil
		})
		return n
	}
	m.Config("rules.yaml", routes)
	if n := tries("free", calls*(1+attempts)); n > calls*(1+attempts) {
		t.Errorf("without a budget %d calls made %d attempts, want %d", calls, n, calls*(1+attempts))
	}
	m.Config("rules.yaml", documents(routes, destinationRule("echo", "{host: echo, trafficPolicy: {retryBudget: {percent: 1, minRetryConcurrency: 2}}}")))
	// Two at a time may be retries: the first failures begin some, and each that ends may let another begin.
	if n := tries("held", calls+2); n > calls+8 {
		t.Errorf("with a budget of two %d calls made %d attempts", calls, n)
	}
	stats := string(client.Admin(http.MethodGet, "/stats?filter=8080.*echo.*upstream_rq_retry_overflow").Body)
	if !strings.Contains(stats, "upstream_rq_retry_overflow: ") || strings.Contains(stats, "overflow: 0\n") {
		t.Errorf("stats: %q", stats)
	}
}
