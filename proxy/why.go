package proxy

import (
	"slices"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe/edges"
	"github.com/weirmesh/weir/proxy/observe/records"
)

// mostRecords bounds an answer: 0.3 MB.
const mostRecords = 200

// Records answers who asks what became of requests: the newest first. It waits for the workers, and may be called from any goroutine.
func (p *Proxy) Records(q *observev1.RecordsRequest) *observev1.Records {
	var all []records.Record
	p.each(func(w *worker) {
		switch q.GetWhich().(type) {
		case *observev1.RecordsRequest_Id:
			all = append(all, w.records.Find(q.GetId(), mostRecords)...)
		case *observev1.RecordsRequest_LastErrors:
			all = append(all, w.records.LastFailed(int(min(q.GetLastErrors(), mostRecords)))...)
		}
	})
	slices.SortStableFunc(all, func(a, b records.Record) int { return b.Start.Compare(a.Start) })
	out := &observev1.Records{Request: q.GetRequest()}
	limit := mostRecords
	if n := q.GetLastErrors(); n > 0 {
		limit = min(limit, int(n))
	}
	for i := range all[:min(len(all), limit)] {
		out.Records = append(out.Records, edges.Record(&all[i]))
	}
	return out
}
