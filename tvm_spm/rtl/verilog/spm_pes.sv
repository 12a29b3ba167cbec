// A rectangle of PEs: register files, multipliers, and their ends of the operand networks and of the reduction network.
//
// Elements come by on a network with their index in the box of the array tile; a PE takes those inside the box of its own
// piece. Sums leave along a chain of PEs that work on the same outputs: right along the row, then down the last column.
//
// Register files are written on the rising edge of the clock, and read on the falling edge by what leaves; multipliers read
// them on the rising edge, before it writes. All PEs are loops over arrays, so that a simulation of many stays small: one of
// these holds the whole array. Nobody but the block that writes such an array reads it on the same edge.
`ifdef VERILATOR
`define INTO =
`else
`define INTO <=
`endif

module spm_pes #(
    parameter int ROWS = 2,
    parameter int COLS = 2,
    parameter int STATIONS = 3,
    parameter int LANES = 1,
    parameter int RF_BYTES = 64,
    parameter int STAGES = 1
) (
    input logic clk,
    input logic rst,
    // fixed by the layer
    input logic [ROWS*416-1:0] row_place,  // per row: 8 offsets of its pieces, its number in a sum, whether it is used, then
    input logic [COLS*416-1:0] col_place,  // where its pieces of I, W, O begin: along each axis, and in bytes of RF
    input logic [127:0] array_tile,
    input logic [127:0] rf_tile,           // of a full piece
    input logic [3*4*40-1:0] axes,         // of I, W, O: two dims that index each axis, and how far
    input logic [3*64-1:0] full_span,      // of a full piece
    input logic [2:0] is_simple,           // each axis is spread over rows or over columns, never both
    input logic [11:0] elem_bytes,         // 1, 2 or 4, of I, W, O
    input logic [1:0] is_signed,           // I, W
    input logic [15:0] sum_rows,           // PEs along each axis that add up one sum
    input logic [15:0] sum_cols,
    input logic has_holes,                 // the box of sums spans groups: K must match by itself
    // networks: I, W, sums in; of these three the lowest bits are I's
    input logic [2:0] enter_start,
    input logic [127:0] enter_size,        // of the array tile that enters
    input logic [3*LANES-1:0] enter_valid,
    input logic [3*LANES*ROWS-1:0] enter_rows,  // those that may have a PE which takes it
    input logic [3*LANES*COLS-1:0] enter_cols,
    input logic [3*LANES*64-1:0] enter_at,
    input logic [LANES*16-1:0] enter_turn, // of sums: index of K
    input logic [3*LANES*16-1:0] enter_address,
    input logic [3*LANES*32-1:0] enter_data,
    input logic [47:0] enter_buffer,
    // sums out, at every station of a chain
    input logic leave_start,
    input logic [127:0] leave_size,
    input logic [STATIONS*LANES-1:0] leave_valid,
    input logic [STATIONS*LANES*ROWS-1:0] leave_rows,
    input logic [STATIONS*LANES*COLS-1:0] leave_cols,
    input logic [STATIONS*LANES*96-1:0] leave_tag,  // index in the box, address in RF, index of K
    input logic [15:0] leave_buffer,
    input logic leave_which,
    input logic [ROWS*LANES*32-1:0] sum_left,
    input logic [COLS*LANES*32-1:0] sum_above,
    output logic [ROWS*LANES*32-1:0] sum_right,
    output logic [COLS*LANES*32-1:0] sum_below,
    output logic [LANES-1:0] result_valid,
    output logic [LANES*32-1:0] result,
    // multipliers
    input logic step_start,
    input logic [127:0] step_size,         // of the array tile worked on
    input logic step_new,                  // its outputs have just entered
    input logic step_read,                 // and were read back
    input logic step_which,                // the buffer they are in
    input logic mac_which,                 // the one of the step that runs
    input logic mac_valid,
    input logic [127:0] mac_at,
    input logic [47:0] mac_address,
    input logic mac_first,
    // what happened
    output logic [63:0] num_macs,
    output logic [2*64-1:0] num_heard      // elements of I, W
);
  /* verilator lint_off BLKSEQ */
  localparam int PES = ROWS * COLS, WORDS = (RF_BYTES + 3) / 4, AW = $clog2(WORDS), DEEP = STAGES > 1 ? STAGES - 1 : 1;

  // what a PE is --------------------------------------------------------------------------------------------------------
  logic [15:0] offset[0:7][0:PES-1];       // of its piece in the array tile, per dim
  logic is_used[0:PES-1];
  logic is_root[0:PES-1];                  // takes sums that are read back, and is where a chain starts
  logic is_end[0:PES-1];                   // where a chain ends
  logic from_left[0:PES-1];
  logic from_above[0:PES-1];
  logic [7:0] station[0:PES-1];

  always_comb
    for (int row = 0; row < ROWS; row++)
      for (int col = 0; col < COLS; col++) begin
        for (int d = 0; d < 8; d++)
          offset[d][row*COLS+col] = row_place[row*416+d*16+:16] + col_place[col*416+d*16+:16];
        is_used[row*COLS+col] = row_place[row*416+136] && col_place[col*416+136];
        station[row*COLS+col] = row_place[row*416+128+:8] + col_place[col*416+128+:8];
        is_root[row*COLS+col] = row_place[row*416+128+:8] == 8'd0 && col_place[col*416+128+:8] == 8'd0;
        from_left[row*COLS+col] = col_place[col*416+128+:8] != 8'd0;
        from_above[row*COLS+col] = 16'(col_place[col*416+128+:8]) + 16'd1 == sum_cols && row_place[row*416+128+:8] != 8'd0;
        is_end[row*COLS+col] = 16'(col_place[col*416+128+:8]) + 16'd1 == sum_cols
            && 16'(row_place[row*416+128+:8]) + 16'd1 == sum_rows;
      end

  // elements in words: where the low bit is, which bits, the sign
  logic [31:0] mask[0:2];
  logic [31:0] sign[0:2];
  always_comb
    for (int o = 0; o < 3; o++) begin
      mask[o] = elem_bytes[o*4+:4] == 4'd1 ? 32'hff : elem_bytes[o*4+:4] == 4'd2 ? 32'hffff : 32'hffffffff;
      sign[o] = o != 2 && is_signed[o%2] ? mask[o] & ~(mask[o] >> 1) : 32'd0;
    end

  // Along an axis: 1 + sum over its terms of distance * (elems - 1)
  function automatic logic [15:0] spanned(input logic [31:0] far, input logic [15:0] one, input logic [15:0] other);
    spanned = 16'd1 + far[15:0] * (one - 16'd1) + far[31:16] * (other - 16'd1);
  endfunction

  logic [15:0] row_base[0:11][0:ROWS-1];   // 4 axes of I, of W, of O
  logic [15:0] col_base[0:11][0:COLS-1];
  logic [15:0] row_bytes[0:2][0:ROWS-1];
  logic [15:0] col_bytes[0:2][0:COLS-1];
  always_comb begin
    for (int axis = 0; axis < 12; axis++) begin
      for (int row = 0; row < ROWS; row++) row_base[axis][row] = row_place[row*416+160+axis*16+:16];
      for (int col = 0; col < COLS; col++) col_base[axis][col] = col_place[col*416+160+axis*16+:16];
    end
    for (int o = 0; o < 3; o++) begin
      for (int row = 0; row < ROWS; row++) row_bytes[o][row] = row_place[row*416+352+o*16+:16];
      for (int col = 0; col < COLS; col++) col_bytes[o][col] = col_place[col*416+352+o*16+:16];
    end
  end

  // state ---------------------------------------------------------------------------------------------------------------
  logic [31:0] rf[0:WORDS-1][0:PES-1];
  (* mem2reg *) logic has_sum[0:1][0:PES-1];
  // Pieces at the edge of an array tile are smaller: boxes of what enters (I, W, O) and leaves, and whether there is any.
  (* mem2reg *) logic [15:0] span[0:15][0:PES-1];
  (* mem2reg *) logic is_any[0:3][0:PES-1];
  (* mem2reg *) logic [15:0] channels[0:1][0:PES-1];
  logic [3:0] is_edge;
  logic [127:0] limit;
  logic is_new, is_read;
  // the pipelines of the multipliers
  (* mem2reg *) logic [31:0] later_product[0:DEEP-1][0:PES-1];
  (* mem2reg *) logic later_works[0:DEEP-1][0:PES-1];
  logic [DEEP*19-1:0] later;

  // found anew at every edge
  logic [15:0] piece[0:7][0:PES-1];
  logic works[0:PES-1];
  logic [31:0] product[0:PES-1];
  logic [31:0] total[0:PES-1];

  logic [18:0] multiplied, added;          // valid, first sums of a root, of another PE, address
  assign multiplied = {mac_valid, is_new && !is_read && mac_first, is_new && mac_first, mac_address[32+:16]};
  assign added = STAGES == 1 ? multiplied : later[(DEEP-1)*19+:19];

  always_ff @(posedge clk) begin
    int pe, row, col, lane;                // named for all loops, because a simulation keeps these in registers
    logic [31:0] one, other, macs, heard;
    logic [15:0] where, place;
    logic [3:0] strobe;
    logic takes;
    logic [3:0] starts;
    logic [127:0] size;
    logic [2:0] dim, other_dim;
    logic [31:0] far;
    pe = 0;
    row = 0;
    col = 0;
    lane = 0;
    one = 32'd0;
    other = 32'd0;
    where = 16'd0;
    place = 16'd0;
    strobe = 4'd0;
    takes = 1'b0;
    macs = 32'd0;

    // multiply: all PEs at the same place of their register files
    if (mac_valid) begin
      for (pe = 0; pe < PES; pe++) works[pe] = is_used[pe];
      if (limit != array_tile)
        for (int d = 0; d < 8; d++)
          if (limit[d*16+:16] != array_tile[d*16+:16]) begin
            where = limit[d*16+:16] - mac_at[d*16+:16];
            for (pe = 0; pe < PES; pe++) works[pe] = works[pe] & (offset[d][pe] < where);
          end
      for (pe = 0; pe < PES; pe++) begin
        one = (rf[AW'(mac_address[2+:14])][pe] >> {mac_address[1:0], 3'd0}) & mask[0];
        one = one | ({32{|(one & sign[0])}} & ~mask[0]);
        other = (rf[AW'(mac_address[18+:14])][pe] >> {mac_address[17:16], 3'd0}) & mask[1];
        other = other | ({32{|(other & sign[1])}} & ~mask[1]);
        product[pe] = one * other;
      end
      for (pe = 0; pe < PES; pe++) macs = macs + 32'(works[pe]);
    end else if (STAGES > 1) for (pe = 0; pe < PES; pe++) works[pe] = 1'b0;
    num_macs <= rst ? 64'd0 : num_macs + 64'(macs);

    // add
    strobe = 4'((8'd1 << elem_bytes[8+:4]) - 8'd1) << added[1:0];
    if (added[18]) begin
      for (pe = 0; pe < PES; pe++)
        total[pe] = (STAGES == 1 ? product[pe] : later_product[DEEP-1][pe])
            + ((is_root[pe] ? added[17] : added[16]) ? 32'd0 : rf[AW'(added[2+:14])][pe] >> {added[1:0], 3'd0});
      if (&strobe) begin
        for (pe = 0; pe < PES; pe++)
          if (STAGES == 1 ? works[pe] : later_works[DEEP-1][pe]) rf[AW'(added[2+:14])][pe] `INTO total[pe];
      end else
        for (pe = 0; pe < PES; pe++)
          if (STAGES == 1 ? works[pe] : later_works[DEEP-1][pe]) begin
            one = total[pe] << {added[1:0], 3'd0};
            for (int b = 0; b < 4; b++) if (strobe[b]) rf[AW'(added[2+:14])][pe][b*8+:8] `INTO one[b*8+:8];
          end
    end
    if (STAGES > 1) begin
      for (int stage = DEEP - 1; stage > 0; stage--)
        if (later[(stage-1)*19+18])
          for (pe = 0; pe < PES; pe++) begin
            later_product[stage][pe] `INTO later_product[(stage+DEEP-1)%DEEP][pe];
            later_works[stage][pe] `INTO later_works[(stage+DEEP-1)%DEEP][pe];
          end
      if (mac_valid)
        for (pe = 0; pe < PES; pe++) begin
          later_product[0][pe] `INTO product[pe];
          later_works[0][pe] `INTO works[pe];
        end
    end
    later <= rst ? '0 : (DEEP*19)'({later, multiplied});

    // whose sums there are
    if (mac_valid) for (pe = 0; pe < PES; pe++) has_sum[mac_which][pe] `INTO has_sum[mac_which][pe] | works[pe];
    if (step_start) begin
      limit <= step_size;
      is_new <= step_new;
      is_read <= step_read;
      if (step_new) for (pe = 0; pe < PES; pe++) has_sum[step_which][pe] `INTO step_read & is_root[pe];
    end

    // what enters
    for (int o = 0; o < 3; o++) begin
      heard = 32'd0;
      for (lane = 0; lane < LANES; lane++)
        if (enter_valid[o*LANES+lane]) begin
          for (row = 0; row < ROWS; row++)
            if (enter_rows[(o*LANES+lane)*ROWS+row])
              for (col = 0; col < COLS; col++)
                if (enter_cols[(o*LANES+lane)*COLS+col]) begin
                  takes = 1'b1;
                  if (!is_simple[o] || is_edge[o] || (o == 2 && has_holes)) begin
                    if (is_edge[o] && !is_any[o][row*COLS+col]) takes = 1'b0;
                    for (int axis = 0; axis < 4; axis++) begin
                      where = enter_at[(o*LANES+lane)*64+axis*16+:16] - row_base[o*4+axis][row] - col_base[o*4+axis][col];
                      if (where >= (is_edge[o] ? span[o*4+axis][row*COLS+col] : full_span[o*64+axis*16+:16])) takes = 1'b0;
                    end
                    where = enter_turn[lane*16+:16] - offset[2][row*COLS+col];
                    if (o == 2 && has_holes && where >= (is_edge[2] ? channels[0][row*COLS+col] : rf_tile[32+:16]))
                      takes = 1'b0;
                  end
                  if (takes) heard = heard + 32'd1;
                  if (takes && (o != 2 || is_root[row*COLS+col])) begin
                    place = enter_buffer[o*16+:16] + enter_address[(o*LANES+lane)*16+:16] - row_bytes[o][row] - col_bytes[o][col];
                    one = enter_data[(o*LANES+lane)*32+:32] << {place[1:0], 3'd0};
                    strobe = 4'((8'd1 << elem_bytes[o*4+:4]) - 8'd1) << place[1:0];
                    for (int b = 0; b < 4; b++)
                      if (strobe[b]) rf[AW'(place[2+:14])][row*COLS+col][b*8+:8] `INTO one[b*8+:8];
                  end
                end
        end
      if (o != 2) num_heard[(o%2)*64+:64] <= rst ? 64'd0 : num_heard[(o%2)*64+:64] + 64'(heard);
    end

    // what starts to enter or to leave: how much of it is for whom
    for (int side = 0; side < 2; side++) begin
      starts = side == 0 ? {1'b0, enter_start} : {leave_start, 3'd0};
      size = side == 0 ? enter_size : leave_size;
      if (|starts) begin
        for (int set = 0; set < 4; set++) if (starts[set]) is_edge[set] <= size != array_tile;
        if (size != array_tile) begin
          for (int d = 0; d < 8; d++)
            for (pe = 0; pe < PES; pe++)
              piece[d][pe] = size[d*16+:16] <= offset[d][pe] ? 16'd0
                  : size[d*16+:16] - offset[d][pe] < rf_tile[d*16+:16] ? size[d*16+:16] - offset[d][pe]
                  : rf_tile[d*16+:16];
          for (int set = 0; set < 4; set++)
            if (starts[set]) begin
              for (int axis = 0; axis < 4; axis++) begin
                dim = axes[(set==3?2:set)*160+axis*40+:3];
                other_dim = axes[(set==3?2:set)*160+axis*40+4+:3];
                far = axes[(set==3?2:set)*160+axis*40+8+:32];
                for (pe = 0; pe < PES; pe++)
                  span[set*4+axis][pe] `INTO spanned(far, piece[dim][pe], piece[other_dim][pe]);
              end
              // Outputs do not depend on summed dims: a PE without products in this tile still passes the sums of others on.
              for (pe = 0; pe < PES; pe++)
                is_any[set][pe] `INTO is_used[pe] & (piece[0][pe] != 16'd0) & (piece[1][pe] != 16'd0)
                    & (piece[2][pe] != 16'd0) & (piece[4][pe] != 16'd0) & (piece[5][pe] != 16'd0)
                    & (set >= 2 | ((piece[3][pe] != 16'd0) & (piece[6][pe] != 16'd0) & (piece[7][pe] != 16'd0)));
              if (set >= 2) for (pe = 0; pe < PES; pe++) channels[set%2][pe] `INTO piece[2][pe];
            end
        end
      end
    end
  end

  // sums on their way out -----------------------------------------------------------------------------------------------
  (* mem2reg *) logic [31:0] chain[0:LANES-1][0:PES-1];
  logic [ROWS-1:0] leaving;

  always_ff @(negedge clk) begin
    int tag, row, col, lane;
    logic [15:0] where, place;
    logic [31:0] at;
    logic [31:0] sum;
    logic [LANES-1:0] ends;
    logic [LANES*32-1:0] sums;
    logic has;
    tag = 0;
    row = 0;
    col = 0;
    lane = 0;
    ends = '0;
    sums = '0;
    where = 16'd0;
    place = 16'd0;
    at = 32'd0;
    sum = 32'd0;
    has = 1'b0;
    leaving = '0;
    if (|leave_valid) begin
      for (tag = 0; tag < STATIONS * LANES; tag++) if (leave_valid[tag]) leaving = leaving | leave_rows[tag*ROWS+:ROWS];
      // backwards, so that sums are taken from neighbours before those go on
      for (row = ROWS - 1; row >= 0; row--)
        if (leaving[row])
          for (col = COLS - 1; col >= 0; col--)
            for (lane = 0; lane < LANES; lane++) begin
              at = 32'(station[row*COLS+col]) * LANES + lane;
              if (leave_valid[at])
                if (leave_rows[at*ROWS+row] && leave_cols[at*COLS+col]) begin
                  has = 1'b1;
                  if (!is_simple[2] || is_edge[3] || has_holes) begin
                    if (is_edge[3] && !is_any[3][row*COLS+col]) has = 1'b0;
                    for (int axis = 0; axis < 4; axis++) begin
                      where = leave_tag[at*96+axis*16+:16] - row_base[8+axis][row] - col_base[8+axis][col];
                      if (where >= (is_edge[3] ? span[12+axis][row*COLS+col] : full_span[2*64+axis*16+:16])) has = 1'b0;
                    end
                    where = leave_tag[at*96+80+:16] - offset[2][row*COLS+col];
                    if (has_holes && where >= (is_edge[3] ? channels[1][row*COLS+col] : rf_tile[32+:16])) has = 1'b0;
                  end
                  if (has) begin
                    place = leave_buffer + leave_tag[at*96+64+:16] - row_bytes[2][row] - col_bytes[2][col];
                    sum = has_sum[leave_which][row*COLS+col] ? rf[AW'(place[2+:14])][row*COLS+col] >> {place[1:0], 3'd0} : 32'd0;
                    if (from_left[row*COLS+col])
                      sum = sum + (col == 0 ? sum_left[(row*LANES+lane)*32+:32] : chain[lane][(row*COLS+col+PES-1)%PES]);
                    if (from_above[row*COLS+col])
                      sum = sum + (row == 0 ? sum_above[(col*LANES+lane)*32+:32] : chain[lane][(row*COLS+col+PES-COLS)%PES]);
                    chain[lane][row*COLS+col] `INTO sum;
                    if (is_end[row*COLS+col]) begin
                      ends[lane] = 1'b1;
                      sums[lane*32+:32] = sums[lane*32+:32] | sum;
                    end
                  end
                end
            end
    end
    result_valid <= ends;
    result <= sums;
  end

  always_comb
    for (int lane = 0; lane < LANES; lane++) begin
      for (int row = 0; row < ROWS; row++) sum_right[(row*LANES+lane)*32+:32] = chain[lane][row*COLS+COLS-1];
      for (int col = 0; col < COLS; col++) sum_below[(col*LANES+lane)*32+:32] = chain[lane][(ROWS-1)*COLS+col];
    end
endmodule
`undef INTO
