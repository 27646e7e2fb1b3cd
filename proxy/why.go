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
	var all, refused []records.Record
	limit := mostRecords
	if last, ok := q.GetWhich().(*observev1.RecordsRequest_LastErrors); ok {
		limit = int(min(last.LastErrors, mostRecords))
	}
	p.each(func(w *worker) {
		switch q.GetWhich().(type) {
		case *observev1.RecordsRequest_Id:
			all = append(all, w.records.Find(q.GetId(), mostRecords)...)
		case *observev1.RecordsRequest_LastErrors:
			all = append(all, w.records.LastFailed(limit)...)
			refused = append(refused, w.records.LastRefused(limit)...)
		}
	})
	out := &observev1.Records{Request: q.GetRequest()}
	for _, r := range newest(all, refused, limit) {
		out.Records = append(out.Records, edges.Record(&r))
	}
	return out
}

// newest are so many records, the newest first. Refused connections are a quarter of them at most while there are others: somebody who
// scans ports hides no request.
func newest(all, refused []records.Record, most int) []records.Record {
	later := func(a, b records.Record) int { return b.Start.Compare(a.Start) }
	slices.SortStableFunc(all, later)
	slices.SortStableFunc(refused, later)
	refused = refused[:min(len(refused), max(most/4, most-len(all)))]
	all = append(all[:min(len(all), most-len(refused))], refused...)
	slices.SortStableFunc(all, later)
	return all
}
